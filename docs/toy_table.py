"""The toys of the page "Break it": their texts, their inputs and their lines of Python."""

from typing import NamedTuple


class Slider(NamedTuple):
    """A range: its name in links, its label, its limits, its step and its first value."""

    name: str
    label: str
    low: float
    high: float
    step: float
    value: float

    def html(self) -> str:
        limits = f'min="{self.low:g}" max="{self.high:g}" step="{self.step:g}"'
        return (
            f'<label>{self.label}: <span data-value="{self.name}">{self.value:g}</span>'
            f'<input type="range" name="{self.name}" {limits} value="{self.value:g}"></label>'
        )


class Switch(NamedTuple):
    """A checkbox."""

    name: str
    label: str
    value: bool

    def html(self) -> str:
        checked = " checked" if self.value else ""
        box = f'<input type="checkbox" name="{self.name}"{checked}>'
        return f'<label class="switch">{box} {self.label}</label>'


class Switches(NamedTuple):
    """A row of checkboxes: a label for each, and 0 or 1 for each."""

    name: str
    label: str
    labels: tuple[str, ...]
    values: tuple[int, ...]

    def html(self) -> str:
        boxes = "".join(
            f'<label><input type="checkbox" name="{self.name}" data-many'
            f"{' checked' if value else ''}>{label}</label>"
            for label, value in zip(self.labels, self.values, strict=True)
        )
        return f'<fieldset class="many"><legend>{self.label}</legend>{boxes}</fieldset>'


class Toy(NamedTuple):
    """A box of the page.

    Fields:
      name: Name of its script in docs/toys, and of its links.
      title: Heading, which says what it is.
      invitation: Text of the link that holds its state.
      lesson: Number of the lesson that it belongs to.
      cell: Id of the cell of this lesson to open.
      about: What is shown, and what to try.
      controls: Its inputs.
      broken: State that the button "Break it" sets, as in a link.
      python: Lines of Python; {name} stands for the value of an input.
      parts: What it draws on: "canvas", "bars", "text".
    """

    name: str
    title: str
    invitation: str
    lesson: int
    cell: str
    about: str
    controls: tuple[Slider | Switch | Switches, ...]
    broken: str
    python: str
    parts: tuple[str, ...] = ("canvas",)


def ones(count: int) -> tuple[int, ...]:
    return (1,) * count


def numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


TOYS = (
    Toy(
        name="perceptron",
        title="A neuron and XOR",
        invitation="Make the perceptron fail",
        lesson=1,
        cell="cell-07",
        about=(
            "One unit says 1 on the blue side of its line. The four corners are the task, AND"
            " at first. Drag the weights until all four are right. Then make the task XOR, "
            "and try again."
        ),
        controls=(
            Slider("w1", "first weight", -2, 2, 0.25, 1),
            Slider("w2", "second weight", -2, 2, 0.25, 1),
            Slider("b", "bias", -3, 3, 0.25, -1.5),
            Switches(
                "y", "the label of each corner", ("0, 0", "0, 1", "1, 0", "1, 1"), (0, 0, 0, 1)
            ),
            Slider("passes", "passes of Rosenblatt's rule from there", 0, 12, 1, 0),
        ),
        broken="w1=1&w2=1&b=-1.5&y=0110&passes=12",
        python=(
            'params = {"kernel": jnp.array([[{w1}], [{w2}]]), "bias": jnp.array([{b}])}\n'
            "train_perceptron(corners, {y}, params=params, max_epochs=1)  # a pass, {passes} "
            "times"
        ),
    ),
    Toy(
        name="rate",
        title="A learning rate in a valley",
        invitation="Make the descent climb",
        lesson=2,
        cell="cell-24",
        about=(
            "The map is the risk of a model of 60 students: dark is high. The descent starts "
            "at the top left. A small rate does not arrive, and a large one jumps from wall "
            "to wall."
        ),
        controls=(
            Slider("rate", "learning rate", 0.05, 4, 0.05, 0.5),
            Slider("momentum", "momentum", 0, 0.95, 0.05, 0),
            Slider("steps", "steps", 1, 60, 1, 40),
        ),
        broken="rate=4&momentum=0.9&steps=12",
        python="optax.sgd({rate}, momentum={momentum})  # {steps} steps",
    ),
    Toy(
        name="vanish",
        title="A gradient through many layers",
        invitation="Make the gradient vanish",
        lesson=2,
        cell="cell-04",
        about=(
            "Random weights, layer after layer, of 32 units each. The lines show how large the "
            "values are on the way forward, and how large a gradient of 1 is on its way back. Find "
            "a scale of the weights that keeps both near 1."
        ),
        controls=(
            Slider("activation", "activation: 1 tanh, 2 sigmoid, 3 ReLU", 1, 3, 1, 1),
            Slider("scale", "scale of the weights", 0.1, 3, 0.1, 1),
            Slider("depth", "layers", 1, 20, 1, 10),
        ),
        broken="activation=2&scale=1&depth=20",
        python=(
            "f = (jnp.tanh, jax.nn.sigmoid, jax.nn.relu)[{activation} - 1]  # {depth} layers\n"
            "jn.dense(32, kernel_init=jn.initializers.normal({scale} / 32**0.5))"
        ),
    ),
    Toy(
        name="neuron",
        title="Neurons switched off",
        invitation="Make the net blind with few clicks",
        lesson=3,
        cell="cell-13",
        about=(
            "A net with 32 hidden units classifies digits of 8×8 pixels. Switch units off. "
            "Which of them does it miss most, and how many can go before it guesses?"
        ),
        controls=(
            Switches("on", "the hidden units", numbers(32), ones(32)),
            Slider("number", "the digit that is shown", 1, 200, 1, 2),
        ),
        broken="on=00000000000000001111111111111111&number=2",
        python=(
            'kernel = params["output"]["kernel"].at[jnp.array({on:off}, int)].set(0)\n'
            "x_test[{number} - 1]  # the digit that is shown"
        ),
        parts=("canvas", "bars"),
    ),
    Toy(
        name="dropout",
        title="Dropout at test time",
        invitation="Drop units until it guesses",
        lesson=3,
        cell="dropout",
        about=(
            "In training, dropout switches units off at random. Here it stays on in the test:"
            " each pass drops other units of the same net of 32. Many passes together are "
            "better than one."
        ),
        controls=(
            Slider("rate", "rate", 0, 0.95, 0.05, 0.5),
            Slider("passes", "passes", 1, 20, 1, 10),
        ),
        broken="rate=0.95&passes=5",
        python="jn.dropout({rate}, axes=(-1,))  # {passes} passes with train=True",
    ),
    Toy(
        name="stride",
        title="Stride and padding",
        invitation="Skip the digit's strokes",
        lesson=6,
        cell="stride",
        about=(
            "A filter of 3×3 weights slides over a digit. The stride is its step, and the "
            "padding the zeros around the digit. From a stride of 4 on, the filter never sees"
            " some of the pixels."
        ),
        controls=(
            Slider("filter", "filter: 1 level lines, 2 upright lines, 3 mean", 1, 3, 1, 1),
            Slider("stride", "stride", 1, 9, 1, 1),
            Slider("padding", "padding", 0, 8, 1, 1),
            Slider("number", "the digit", 1, 20, 1, 3),
        ),
        broken="filter=1&stride=7&padding=0&number=3",
        python=(
            "jn.conv(1, 3, strides={stride}, padding={padding})  # kernel {filter}, digit {number}"
        ),
    ),
    Toy(
        name="filters",
        title="A hole in LeNet's filters",
        invitation="Cut a hole into LeNet",
        lesson=6,
        cell="cell-28",
        about=(
            "LeNet-5 of the home page looks at a digit with six filters of 5×5 weights. Set a"
            " square of weights to 0, in one filter or in all of them, and see which of 20 "
            "digits it loses."
        ),
        controls=(
            Slider("row", "first row of the hole", 0, 4, 1, 1),
            Slider("column", "first column", 0, 4, 1, 1),
            Slider("size", "side of the hole", 0, 5, 1, 0),
            Slider("filter", "filter", 0, 5, 1, 0),
            Switch("all", "in all six filters", False),
        ),
        broken="row=0&column=0&size=4&filter=0&all=1",
        python=(
            "hole = {row}, {column}, {size}; which = slice(6) if {all:bool} else {filter}\n"
            "kernel.at[{row}:{row} + {size}, {column}:{column} + {size}, :, which].set(0)"
        ),
    ),
    Toy(
        name="hmm",
        title="Two coins in a hidden Markov model",
        invitation="Make the model doubt its coin",
        lesson=13,
        cell="cell-05-posterior",
        about=(
            "Somebody tosses one of two coins and sometimes changes it. You see the tosses. "
            "The model says how probable each coin was, and which path of coins is the most "
            "probable one."
        ),
        controls=(
            Slider("stay", "A stays A with probability", 0.02, 0.98, 0.02, 0.7),
            Slider("back", "B stays B with probability", 0.02, 0.98, 0.02, 0.9),
            Slider("one", "coin A shows 1 with probability", 0.02, 0.98, 0.02, 0.2),
            Slider("two", "coin B shows 1 with probability", 0.02, 0.98, 0.02, 0.7),
            Switches(
                "tosses",
                "the tosses (checked: 1)",
                numbers(12),
                (0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1),
            ),
        ),
        broken="stay=0.02&back=0.02&one=0.2&two=0.7&tosses=001100011101",
        python=(
            "move = np.array([[{stay}, 1 - {stay}], [1 - {back}, {back}]])\n"
            "coin = np.array([[1 - {one}, {one}], [1 - {two}, {two}]]); seen = {tosses}"
        ),
    ),
    Toy(
        name="heads",
        title="Heads of a GPT switched off",
        invitation="Make the GPT forget how to spell",
        lesson=16,
        cell="heads",
        about=(
            "The GPT of the home page has four heads in each of three blocks. Switch heads "
            "off, and see what each letter of a text costs. Letters that were not expected "
            "are orange."
        ),
        controls=(
            Switches(
                "on",
                "heads: 0 to 3 in the first block, then the second and the third",
                numbers(12),
                ones(12),
            ),
        ),
        broken="on=000011111111",
        python=(
            "off = [divmod(head, 4) for head in {on:off}]  # the block and its head\n"
            'params["block_0"]["attention"]["out"]["kernel"].at[head].set(0)  # in each block'
        ),
        parts=("text",),
    ),
    Toy(
        name="mask",
        title="The mask of attention",
        invitation="Show the GPT the future",
        lesson=16,
        cell="mask",
        about=(
            "In training, each letter saw itself and 64 letters before it. Change what it may"
            " see. Letters ahead should be a help: one of them is the answer."
        ),
        controls=(
            Slider("back", "letters that it sees before itself", 0, 64, 1, 64),
            Slider("ahead", "letters that it sees after itself", 0, 16, 1, 0),
        ),
        broken="back=64&ahead=4",
        python=(
            "jn.multi_head_attention(4, causal={ahead:zero}, rotary=True, window=({back}, {ahead}))"
        ),
        parts=("canvas", "text"),
    ),
    Toy(
        name="temperature",
        title="Temperature and top-k",
        invitation="Boil the next letter",
        lesson=16,
        cell="write",
        about=(
            "The net gives each letter a probability. A low temperature takes nearly always "
            "the best letter, and a high one any. Top-k draws from the best k alone."
        ),
        controls=(
            Slider("temperature", "temperature", 0.1, 3, 0.1, 0.7),
            Slider("k", "top-k", 1, 65, 1, 65),
            Slider("draw", "another draw", 1, 50, 1, 1),
        ),
        broken="temperature=3&k=65&draw=1",
        python=(
            "jn.decoding.generate(net, params, prompt, jax.random.key({draw}), "
            "temperature={temperature}, top_k={k})"
        ),
        parts=("bars", "text"),
    ),
    Toy(
        name="diffusion",
        title="The noise of a diffusion step",
        invitation="Take the noise away",
        lesson=21,
        cell="sample",
        about=(
            "A small net removes noise in 40 steps until digits of 8×8 pixels are left. Each step "
            "also adds a little new noise. Without it, all eight samples become the same image. "
            "With twice as much, they stay noisy."
        ),
        controls=(
            Slider("digit", "the digit asked for", 0, 9, 1, 3),
            Slider("noise", "new noise, times what is right", 0, 2.5, 0.1, 1),
            Slider("guidance", "guidance", 0, 6, 0.5, 1),
        ),
        broken="digit=3&noise=0&guidance=1",
        python=(
            "x = mean + {noise} * deviation * jax.random.normal(key, x.shape)\n"
            "epsilon += {guidance} * (epsilon - without)  # label {digit} against no label"
        ),
    ),
    Toy(
        name="bits",
        title="Few bits per weight",
        invitation="Ruin a net with one large weight",
        lesson=22,
        cell="quantize",
        about=(
            "The weights of a unit are stored as integers times one scale. The largest weight "
            "decides the scale, so one large weight takes the bits of all others, even if its "
            "input is always 0."
        ),
        controls=(
            Slider("bits", "bits per weight", 2, 8, 1, 8),
            Slider("outlier", "one weight of each unit, multiplied by", 1, 200, 1, 1),
            Slider("number", "the digit that is shown", 1, 200, 1, 2),
        ),
        broken="bits=4&outlier=150&number=2",
        python=(
            'kernel = np.array(params["dense"]["kernel"]); kernel[0] *= {outlier}\n'
            "scale = abs(kernel).max(0) / (2 ** ({bits} - 1) - 1); np.round(kernel / scale) * scale"
            "\nx_test[{number} - 1]  # the digit that is shown"
        ),
        parts=("canvas", "bars"),
    ),
    Toy(
        name="labels",
        title="Stolen labels",
        invitation="Steal its labels",
        lesson=23,
        cell="probe",
        about=(
            "A net without hidden layers trains in this page on 300 digits, and classifies "
            "200 others. Steal labels, or swap them for wrong ones. Which hurts more?"
        ),
        controls=(
            Slider("stolen", "labels stolen, of 300", 0, 295, 5, 0),
            Slider("swapped", "labels swapped", 0, 300, 5, 0),
        ),
        broken="stolen=290&swapped=0",
        python=(
            "y[:{swapped}] = wrong[:{swapped}]; x, y = x[: 300 - {stolen}], y[: 300 - {stolen}]"
        ),
    ),
)
