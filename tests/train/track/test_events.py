"""TensorBoard's files, byte for byte. That TensorBoard's own classes can read them: test_metrics.py."""

from lfr_jax.train.track.events import event, record, summary, text

# A record that tensorboardX 2.6.5 wrote, with a step of two bytes and a tag that is not ASCII.
WRITTEN = (
    "3e00000000000000d9d240e709000000000000f83f10ac022a300a110a0a747261696e2f6c6f737315000020400a1b0a1476616c69642f"
    "d0bdd0bed0b2d0bed181d182d0b815000000808cbada7d"
)


def test_a_record_is_what_tensorboard_expects():
    """Catches: another polynomial, mask or byte order; a step cut to seven bits; a tag measured in letters."""
    values = {"train/loss": 2.5, "valid/новости": -0.0}
    assert record(event(1.5, 300, text(5, summary(values)))).hex() == WRITTEN
