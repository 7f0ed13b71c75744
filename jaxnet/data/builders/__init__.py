"""Sources of datasets, and builders of datasets outside TensorFlow Datasets' catalog.

The builders need no TensorFlow. Each file has `ORIGIN`, and `builder()`, which returns a class of
builders for TensorFlow Datasets; `jaxnet.data.prepare` runs them.
"""

from jaxnet.data.builders import camvid, free_spoken_digits, multi30k
from jaxnet.data.builders.remote import Origin

OWN = {"camvid": camvid, "free_spoken_digits": free_spoken_digits, "multi30k": multi30k}

CATALOG = "https://www.tensorflow.org/datasets/catalog"
KNOWN = {name: module.ORIGIN for name, module in OWN.items()} | {
    "bccd": Origin(
        what="364 microscope images of blood, with boxes around the cells",
        home=f"{CATALOG}/bccd",
        terms="MIT license",
        size=7_875_205,
    ),
    "cifar10": Origin(
        what="60,000 photographs of ten classes",
        home=f"{CATALOG}/cifar10",
        terms="none stated; cite Krizhevsky 2009",
        size=170_052_171,
    ),
    "mnist": Origin(
        what="70,000 handwritten digits",
        home=f"{CATALOG}/mnist",
        terms="none stated; cite LeCun, Cortes and Burges",
        size=11_594_722,
    ),
    "tiny_shakespeare": Origin(
        what="plays of Shakespeare, one long text",
        home=f"{CATALOG}/tiny_shakespeare",
        terms="public domain",
        size=1_115_394,
    ),
}
