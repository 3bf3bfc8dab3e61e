"""What the benchmarks compare with: the same work in PyTorch, and in diffusers.

It is done where JAX does ours, and a call returns when it is done: on a GPU PyTorch needs its build
for CUDA, and takes products in TF32, as JAX does.
"""

from collections.abc import Callable

import jax
import numpy as np
import torch

LEARNING_RATE = 1e-3


def device() -> torch.device:
  """That of JAX; on a GPU products are from then on in TF32."""
  if jax.default_backend() != 'gpu':
    return torch.device('cpu')
  torch.set_float32_matmul_precision('high')
  return torch.device('cuda')


class Vae(torch.nn.Module):
  """The VAE 784-400-20 with a Bernoulli likelihood; called with binary x, its mean loss."""

  def __init__(self):
    super().__init__()
    self.encoder = _mlp(784, 400, 40)
    self.decoder = _mlp(20, 400, 784)

  def forward(self, x):
    mean, log_var = self.encoder(2 * x - 1).chunk(2, dim=-1)
    z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    reconstruction = torch.nn.functional.binary_cross_entropy_with_logits(
      self.decoder(z), x, reduction='sum'
    )
    kl = 0.5 * torch.sum(mean**2 + log_var.exp() - 1 - log_var)
    return (reconstruction + kl) / len(x)


def vae_training(
  pictures: np.ndarray, batch_size: int, num_steps: int, compiled: bool, fused: bool
) -> Callable:
  """A function that does num_steps steps of Adam, the data in memory as one uint8 tensor.

  There is no loader, and the order is drawn once for each call. fused: whether Adam is one kernel,
  or as PyTorch does it by default.
  """
  x = torch.from_numpy(pictures.reshape(len(pictures), -1)).to(device())
  model = Vae().to(device())
  optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=fused)
  loss_of = torch.compile(model) if compiled else model

  def train():
    order = torch.randperm(len(x), device=x.device)[: num_steps * batch_size].reshape(
      num_steps, batch_size
    )
    for index in order:
      levels = x[index].float() / 255
      loss = loss_of((torch.rand_like(levels) < levels).float())
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
    return loss.item()

  return train


def unet(widths: tuple[int, ...]) -> torch.nn.Module:
  """UNet2DModel for 28 x 28 x 1 with one residual block per level, attention in the lowest."""
  from diffusers import UNet2DModel  # seconds to import, and not everywhere installed

  lower = len(widths) - 1
  model = UNet2DModel(
    sample_size=28,
    in_channels=1,
    out_channels=1,
    layers_per_block=1,
    block_out_channels=widths,
    down_block_types=('DownBlock2D',) * lower + ('AttnDownBlock2D',),
    up_block_types=('AttnUpBlock2D',) + ('UpBlock2D',) * lower,
    norm_num_groups=min(32, widths[0]),
  )
  return model.to(device())


def pictures(batch_size: int) -> torch.Tensor:
  """A batch of noise, [B, 1, 28, 28]."""
  return torch.randn(batch_size, 1, 28, 28, device=device())


def times(batch_size: int) -> torch.Tensor:
  """One of 1,000 levels for each picture, [B]."""
  return torch.randint(0, 1000, (batch_size,), device=device())


def unet_training(model: torch.nn.Module, batch_size: int, num_parts: int = 1) -> Callable:
  """A function that does one step of Adam on the simple loss (Ho et al. 2020).

  num_parts: of the batch, whose gradients are added up.
  """
  from diffusers import DDPMScheduler

  scheduler = DDPMScheduler()
  optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
  x_0 = pictures(batch_size)

  def train():
    eps, t = torch.randn_like(x_0), times(batch_size)
    x_t = scheduler.add_noise(x_0, eps, t)
    optimizer.zero_grad()
    for part in torch.arange(batch_size).chunk(num_parts):
      loss = torch.nn.functional.mse_loss(model(x_t[part], t[part]).sample, eps[part])
      (loss / num_parts).backward()
    optimizer.step()
    return loss.item()

  return train


def unet_forward(model: torch.nn.Module, batch_size: int) -> Callable:
  """A function that calls the network once."""
  x_t, t = pictures(batch_size), times(batch_size)

  def forward():
    with torch.inference_mode():
      return model(x_t, t).sample.cpu().numpy()

  return forward


def ancestral_sampling(model: torch.nn.Module, batch_size: int, num_steps: int) -> Callable:
  """A function that does num_steps steps of DDPMScheduler (Ho et al. 2020, algorithm 2)."""
  from diffusers import DDPMScheduler

  scheduler = DDPMScheduler()
  scheduler.set_timesteps(num_steps)

  def sample():
    with torch.inference_mode():
      x_t = pictures(batch_size)
      for t in scheduler.timesteps:
        x_t = scheduler.step(model(x_t, t).sample, t, x_t).prev_sample
      return x_t.cpu().numpy()

  return sample


def _mlp(*sizes: int) -> torch.nn.Sequential:
  first, hidden, last = sizes
  return torch.nn.Sequential(
    torch.nn.Linear(first, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, last)
  )
