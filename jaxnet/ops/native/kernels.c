/* All kernels. Their inner loops are in the other units, three for each instruction set.
 *
 *     handler                 computes in C                        its twin in JAX
 *     jaxnet_conv             conv.h, a convolution or a gradient  convolution_lowering.py
 *     jaxnet_winograd         winograd.h, one of 3x3, stride 1     convolution_lowering.py
 *     jaxnet_pack             fused.h, weights as tiles read them  none: they are constants
 *     jaxnet_fused            fused.h, a convolution and what      _in_jax of fused.py
 *                             follows it
 *     jaxnet_lstm             lstm.h, all steps                    _loop of recurrence.py
 *     jaxnet_lstm_back        lstm.h, the gradient                 the transpose of its _push
 *     jaxnet_rnn              rnn.h, all steps or the gradient     _loop of recurrence.py,
 *                                                                  the transpose of its _push
 *     jaxnet_attention        attention.h, values                  _attended of blockwise.py
 *     jaxnet_attention_back   attention.h, the gradient            the transpose of its _tangents
 *     jaxnet_attention_one    attention.h, of one query            _with_weights of attention.py
 *     jaxnet_gemv             gemv.h, x @ w of few rows            _in_jax of gemv.py
 *     jaxnet_gemv_transposed  gemv.h, x @ w.T of few rows          _in_jax of gemv.py
 *     jaxnet_keep             keep.h, bits of dropout              bernoulli of keep.py
 *     jaxnet_norm             norm.h, values or the gradient       _standardized of normalization.py,
 *                                                                  the transpose of its _push
 *     jaxnet_moments          norm.h, mean and variance of         _moments of normalization.py,
 *                             features, or sums of a gradient      the transpose of its _push_batch
 *     jaxnet_max_pool         pool.h, values or the gradient       _highest of pooling.py,
 *                                                                  the transpose of its _push
 *     jaxnet_script           script.h, small steps in turn        the steps themselves */

#include "attention.h"
#include "conv.h"
#include "fused.h"
#include "gemv.h"
#include "half.h"
#include "keep.h"
#include "lstm.h"
#include "norm.h"
#include "outer.h"
#include "pool.h"
#include "rnn.h"
#include "script.h"
#include "winograd.h"
