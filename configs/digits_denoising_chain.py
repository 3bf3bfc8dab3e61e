"""Plain repeated denoising on digits, with the network and the schedule of digits_diffusion.

  python -m experiments.run --config=configs/digits_denoising_chain.py \
    --workdir=runs/digits_denoising_chain
"""

from configs import common, digits_diffusion


def get_config(variant: str = ''):
  diffusion = digits_diffusion.get_config().unlock()
  config = common.denoising_chain('digits')
  for section in ('schedule', 'denoiser', 'optimizer', 'training'):
    config[section] = diffusion[section]
  config.evaluation.update(batch_size=304, every=500)
  return common.finish(config, variant)
