"""Small domains more often at the end of training."""

from lfr_jax.schedule.by_domain import By
from lfr_jax.schedule.checks import SHARE, positive_int, real_number
from lfr_jax.schedule.phases import as_written
from lfr_jax.schedule.policies.mixture import Weights, of_stages
from lfr_jax.schedule.policies.uniform import uniform
from lfr_jax.schedule.types import Schedule
from lfr_jax.schedule.wrappers.chain import chain


def domain_upsampling(
    *, steps: int = 1000, last: float = 0.2, weights: Weights = "equal", by: By = "domain"
) -> Schedule:
    """Draws all blocks equally often, and at the end draws from the domains in given proportions.

    It is `chain(uniform(...), mixture(...))`. First come the natural proportions of the corpus, in which
    a web scrape has most of the draws. For the last part of the steps, `last`, the weights give
    smaller domains more.

    Args:
      steps: length of the whole. The default is arbitrary; `fit` changes it.
      last: share of the steps that go by the weights. Published: 10 to 20 % is best for 7B
        parameters and 10**12 tokens, out of 5 to 30 % tried.
      weights: of the domains in the last steps, as in `mixture`. The paper's weights are for its own
        corpus, and we do not know them. The default, the same share for every domain, is ours.
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".

    Returns:
      The schedule; its state is a `ChainState`. Its phases are 'natural' and 'upsampled'.

    Raises:
      ValueError: `last` leaves no step for one of the phases; or as `mixture`.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.domain_upsampling(steps=100, last=0.2, weights=[1, 3])
      >>> [(p.name, p.start, p.stop) for p in s.phases]
      [('natural', 0, 80), ('upsampled', 80, 100)]

    References:
      Blakeney, Paul, Larsen, Owen, Frankle 2024, "Does your data spark joy? Performance gains from domain
      upsampling at the end of training", arXiv 2406.03476. We have read its abstract.
    """
    steps = positive_int("steps", steps)
    upsampled = round(as_written(real_number("last", last, SHARE)) * steps)
    if not 0 < upsampled < steps:
        raise ValueError(f"last is {last} of {steps} steps, expected a share that leaves a step before and after")
    s = chain(uniform(steps - upsampled), of_stages([(upsampled, weights)], by, "domain_upsampling"))
    return s._replace(phases=(s.phases[0]._replace(name="natural"), s.phases[1]._replace(name="upsampled")))
