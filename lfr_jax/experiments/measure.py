"""What runs have of held-out documents, and which mean over documents is their loss.

S seeds, D documents, G pools of documents, R runs.
"""

import math
from typing import NamedTuple

import numpy as np


class Documents(NamedTuple):
    """The held-out documents that every run is measured on."""

    tokens_D: np.ndarray  # i64[D]
    bytes_D: np.ndarray  # i64[D]: of their text in UTF-8
    domain_D: np.ndarray  # str[D]: the name of the domain of each


class Losses(NamedTuple):
    """What one arm reached with one budget."""

    seeds: tuple[int, ...]
    nll_SxD: np.ndarray  # f64[S, D]: the sum of the negative log-likelihood over a document, nats
    flops: float = math.nan  # what each seed spent


class Measure(NamedTuple):
    """Which mean over documents a loss is.

    Attributes:
      of: "micro", all tokens alike; "macro", the mean over domains of their losses; or the name of a domain.
      per: "token", nats per token; "byte", bits per byte of text, which does not depend on the tokenizer.
    """

    of: str = "micro"
    per: str = "token"

    def pools(self, documents: Documents) -> np.ndarray:
        """f64[G, D]: 1 where a document is in a pool. The loss is the mean over pools of the loss of each.

        Raises:
          ValueError: no document is of that domain.
        """
        names = sorted(set(documents.domain_D.tolist()))
        if self.of == "micro":
            return np.ones((1, len(documents.domain_D)))
        if self.of != "macro" and self.of not in names:
            raise ValueError(f"found the measure {self.of!r}, expected 'micro', 'macro' or one of {', '.join(names)}")
        return np.array([documents.domain_D == name for name in names if self.of in ("macro", name)], np.float64)

    def sizes(self, documents: Documents) -> np.ndarray:
        """f64[D]: what the nats of a document are divided by.

        Raises:
          ValueError: the unit is not known.
        """
        if self.per not in ("token", "byte"):
            raise ValueError(f"found losses per {self.per!r}, expected 'token' or 'byte'")
        return 1.0 * documents.tokens_D if self.per == "token" else math.log(2) * documents.bytes_D


def mean_loss(nll_SxD: np.ndarray, documents: Documents, measure: Measure = Measure()) -> np.ndarray:
    r"""The mean over pools g of documents of $\sum_{d \in g} \text{nll}_d / \sum_{d \in g} \text{size}_d$.

    Args:
      nll_SxD: f64[..., D], nats, as in `Losses`.

    Returns:
      f64[...], in nats per token or bits per byte.

    Raises:
      ValueError: no such domain or unit.

    Examples:
      >>> documents = Documents(np.array([10, 30, 20]), np.array([40, 90, 60]), np.array(["code", "code", "prose"]))
      >>> nll = np.array([[30.0, 50.0, 100.0]])
      >>> [mean_loss(nll, documents, Measure(of)).tolist() for of in ("micro", "macro", "prose")]
      [[3.0], [3.5], [5.0]]
    """
    pool_GxD, size_D = measure.pools(documents), measure.sizes(documents)
    return np.mean((nll_SxD @ pool_GxD.T) / (pool_GxD @ size_D), axis=-1)


def influence(nll_RxD: np.ndarray, documents: Documents, measure: Measure) -> np.ndarray:
    r"""f64[R, D]: how much each document moves the loss, to first order.

    The loss of a pool is a ratio, and its nats $N_g$ and its size $T_g$ both depend on which documents are drawn. So
    document d moves the mean over G pools by $(\text{nll}_d - \text{size}_d N_g / T_g) / (G\, T_g)$.
    """
    pool_GxD, size_D = measure.pools(documents), measure.sizes(documents)
    total_G = pool_GxD @ size_D
    loss_RxD = ((nll_RxD @ pool_GxD.T) / total_G) @ pool_GxD
    return (nll_RxD - size_D * loss_RxD) * ((1 / total_G) @ pool_GxD) / len(total_G)
