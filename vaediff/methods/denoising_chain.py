"""Plain repeated denoising (lecture section 2.2): a denoiser for each level, one after the other.

The forward process is that of `diffusion`. At each level a network is trained to guess x_{t-1} from
x_t, by regression; what it learns is E[x_{t-1} | x_t]. Generation starts at N(0, I) and applies the
guesses one after the other, T of them, with no noise put back: what fails, and why, is the reason
for `diffusion`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import forward_process, gaussian, likelihoods, random, sampling
from vaediff.forward_process import over_event
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network

NETWORKS = ('shared', 'separate')


def denoising_chain(
  network: Network,
  log_snr: np.ndarray,
  event_shape: tuple[int, ...],
  num_levels: int,
  networks: str = 'shared',
) -> Method:
  """A chain of denoisers.

  network: as of `diffusion`, (x_t [B, ...], log_snr_t, a scalar or [B], label [B]) -> [B, ...]. Its
    output stands for the noise that the step to t added, in units of its standard deviation: with
    x_t = r x_{t-1} + s eps the guess of x_{t-1} is (x_t - s output) / r. An output of 0, as at
    initialisation, guesses that nothing was added; the guess of least squared error is an output of
    order one at any level and any size of the step.
  log_snr: the schedule's table [T+1].
  event_shape: of one example. num_levels: of the data, 0 .. num_levels - 1.
  networks: 'shared', one network for all levels, which sees log_snr[t]; or 'separate', one for each
    level, T times as many parameters.

  The loss is the squared error per dimension of x_{t-1} at one uniform t for each example, in units
  of the variance of the step (s / r)^2, so that each level weighs as much as any other.

  Raises ValueError for an unknown choice of networks.
  """
  if networks not in NETWORKS:
    raise ValueError(f'networks is {networks!r}; it is one of {", ".join(NETWORKS)}')
  T = len(log_snr) - 1
  log_snr = jnp.float32(log_snr)
  step_scale = jnp.exp(0.5 * forward_process.transition_log_var(log_snr[:-1], log_snr[1:]))
  signal = forward_process.signal_scale(log_snr)
  ratio = signal[1:] / signal[:-1]

  def output_at(params, x_t, t, label):
    """The network's output at levels t [B]."""
    if networks == 'shared':
      return network.apply(params, x_t, log_snr[t], label)
    # Each example has its own level's network: a batch of one for each.
    own = jax.tree.map(lambda leaf: leaf[t - 1], params)
    one = jax.vmap(lambda p, *inputs: network.apply(p, *(x[None] for x in inputs))[0])
    return one(own, x_t, log_snr[t], label)

  def guess(params, x_t, t, label):
    """E[x_{t-1} | x_t] as the network has it; at one level t, a scalar, for the whole batch."""
    own = params if networks == 'shared' else jax.tree.map(lambda leaf: leaf[t - 1], params)
    output = network.apply(own, x_t, log_snr[t], label)
    return (x_t - step_scale[t - 1] * output) / ratio[t - 1]

  def init(key, batch: Batch):
    x = likelihoods.center(batch.x, num_levels)
    inputs = x, jnp.zeros(x.shape[0]), batch.label
    if networks == 'shared':
      return Variables(network.init(key, *inputs))
    return Variables(jax.vmap(lambda key: network.init(key, *inputs))(jax.random.split(key, T)))

  def loss(variables: Variables, keys, batch: Batch, step):
    del step
    t_keys, past_keys, step_keys = random.split(keys, 3)
    t = random.integers(t_keys, 1, T + 1)
    x_0 = likelihoods.center(batch.x, num_levels)
    x_s = gaussian.sample(past_keys, forward_process.marginal(x_0, log_snr[t - 1]))
    eps = random.normal(step_keys, x_0.shape)
    x_t = over_event(ratio[t - 1], x_s) * x_s + over_event(step_scale[t - 1], x_s) * eps
    # (x_{t-1} - guess) r / s, with nothing subtracted that is almost equal.
    error = output_at(variables.params, x_t, t, batch.label) - eps
    return {'loss': gaussian.sum_event(jnp.square(error)) / x_0[0].size}

  def draw(variables: Variables, keys, label, trajectory: bool, x_t=None, t=T):
    def reverse_step(x_t, t):
      mean = guess(variables.params, x_t, t, label)
      return gaussian.Normal(mean, jnp.full_like(mean, -jnp.inf))

    return sampling.ancestral(
      keys, event_shape, reverse_step, t, noise_scale=0.0, x_T=x_t, trajectory=trajectory
    )

  def sample(variables: Variables, keys, label):
    return likelihoods.quantize(draw(variables, keys, label, trajectory=False), num_levels)

  def trajectory(variables: Variables, keys, label):
    _, states = draw(variables, keys, label, trajectory=True)
    return {
      'x': jnp.moveaxis(states, 0, 1),
      'log_snr': jnp.broadcast_to(log_snr[::-1], (len(keys), T + 1)),
    }

  def descend(variables: Variables, keys, label, x_t, t: int):
    _, states = draw(variables, keys, label, trajectory=True, x_t=x_t, t=t)
    return jnp.moveaxis(states, 0, 1)

  return Method(
    init=init,
    loss=loss,
    units=(('loss', '1'),),
    sample=sample,
    trajectory=trajectory,
    descend=descend,
  )
