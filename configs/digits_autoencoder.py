"""Plain autoencoder on digits, with the networks of digits_vae.

  python -m experiments.run --config=configs/digits_autoencoder.py \
    --workdir=runs/digits_autoencoder

10 seconds on two CPU cores. Test (297 examples, other writers than train): -log p(x | z)
76.1 +- 1.4 nats, which is no likelihood of x. Samples decode codes from N(0, I);
--mode=sample --config.sampler.codes=normal (or mixture) those from a distribution fitted to the
training codes.
"""

from configs import common, digits_vae


def get_config(variant: str = ''):
  return common.as_autoencoder(digits_vae.get_config(variant)).lock()
