from configs import common


def get_config(variant: str = ''):
  config = common.diffusion('digits')
  return common.finish(config, variant)
