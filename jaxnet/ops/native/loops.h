/* The inner loops but those of tiles.h and gemv, for the vectors of one instruction set, and the table of all. */

#pragma once
#include "vectors.h"

#include "spread_tiles.h"
#include "lstm_tiles.h"
#include "attention_tiles.h"
#include "norm_tiles.h"
#include "pool_tiles.h"
#include "winograd_tiles.h"
#include "outer_tiles.h"
#include "rnn_tiles.h"
#include "keep_tiles.h"
#include "activation_tiles.h"
#include "script_tiles.h"
#ifdef TWO_PRODUCTS
#include "half_tiles.h"
#endif

const Kernels NAME(kernels) = {
  .lanes = LANES, .most = MOST, .tiles = &NAME(tiles), .spread = NAME(spread),
  .cell = NAME(cell), .cell_back = NAME(cell_back), .plain = NAME(plain),
  .plain_back = NAME(plain_back), .keep = NAME(keep), .gemv = NAME(gemv), .pack = NAME(pack),
  .unpack = NAME(unpack), .gather = NAME(gather), .finite = NAME(finite), .dot = NAME(dot),
  .softmax = NAME(softmax), .slopes = NAME(slopes), .one = NAME(attend_one), .norm = NAME(norm),
  .moments = NAME(moments), .pool = NAME(pool), .panels = NAME(panels),
  .read = {
    {{NAME(read_2), NAME(read_at_2)}, {NAME(read_4), NAME(read_at_4)}},
    {{NAME(read_half_2), NAME(read_half_at_2)}, {NAME(read_half_4), NAME(read_half_at_4)}},
  },
  .back = {
    {{NAME(back_2), NAME(back_at_2)}, {NAME(back_4), NAME(back_at_4)}},
    {{NAME(back_half_2), NAME(back_half_at_2)}, {NAME(back_half_4), NAME(back_half_at_4)}},
  },
  .write = {{NAME(write_2), NAME(write_4)}, {NAME(write_half_2), NAME(write_half_4)}},
  .weights = {NAME(weights_2), NAME(weights_4)}, .kernel = {NAME(kernel_2), NAME(kernel_4)},
  .activations = NAME(activations), .script = &NAME(script),
  .squares = {{NAME(squares_2), NAME(squares_4)}, {NAME(squares_half_2), NAME(squares_half_4)}},
#ifdef TWO_PRODUCTS
  .turn = NAME(turn), .pair = NAME(pair), .round = NAME(round),
#endif
};
