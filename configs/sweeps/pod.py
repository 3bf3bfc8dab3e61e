"""Diffusion on MNIST over a pod: 256 trials, each on a TPU slice of four hosts and 16 chips.

  python -m experiments.sweep --sweep=configs/sweeps/pod.py --workdir=W --dry_run
  python -m experiments.sweep --sweep=configs/sweeps/pod.py --workdir=W --engine=ray

Two predictions, two widths of the U-Net, 16 draws of learning rate and weight decay, four seeds
each. --resources says otherwise what a trial gets, as --resources=hosts=1,tpus=0,gpus=1.
"""

from configs import mnist_diffusion


def get_sweep():
  config = mnist_diffusion.get_config().unlock()
  config.method.decoder = 'nearest_level'  # which goes with any prediction
  config.training.update(num_steps=20_000, batch_size=256, checkpoint_every=2_000)
  config.evaluation.update(batch_size=512)
  return {
    'config': config,
    'grid': {
      'method.prediction': ('v', 'eps'),
      'denoiser.widths': ((24, 48, 96), (48, 96, 192)),
    },
    'random': {
      'optimizer.learning_rate': ('log_uniform', 3e-4, 1e-2),
      'optimizer.weight_decay': ('uniform', 0.0, 0.1),
    },
    'num_random': 16,
    'seeds': (0, 1, 2, 3),
    'collect': ('metrics.bits_per_dim.value', 'cost.training_seconds'),
    'resources': {
      'cpus': 8,
      'tpus': 4,
      'hosts': 4,
      'topology': '4x4',
      'accelerator': 'TPU-V6E',
    },
  }
