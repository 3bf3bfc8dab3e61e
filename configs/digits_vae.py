from configs import common


def get_config(variant: str = ''):
  config = common.vae('digits')
  return common.finish(config, variant)
