"""Sampling: 64 pictures by 1,000 ancestral steps, beside diffusers.

The first table times chains of 50 steps by turns, and the second a few whole ones, 1,000 steps of
DDPMScheduler with UNet2DModel and of ours with a U-Net of equal cost (third table).
"""

import jax

from benchmarks import peers, timing, unet

SHARED_BATCHES = (unet.BATCH_SIZE,)
NUM_STEPS, NUM_STEPS_OF_A_TURN, NUM_WHOLE_CHAINS = 1_000, 50, 3
PEER_WIDTHS, OUR_WIDTHS, OUR_BLOCKS = (16, 32, 64), (88, 16), 1


def run(num_turns: int) -> dict[str, list[dict]]:
  """Pictures per second of ancestral chains."""
  model, network = peers.unet(PEER_WIDTHS), unet.our_network(OUR_WIDTHS, OUR_BLOCKS)
  params = jax.jit(network.init)(jax.random.key(0), *unet.inputs(1))
  costs = {'ours': unet.our_flops(network, params), 'diffusers': unet.peer_flops(model)}

  def chains(num_steps):
    return {
      'ours': unet.our_sampling(unet.our_method(network, num_steps), params),
      'diffusers': peers.ancestral_sampling(model, unet.BATCH_SIZE, num_steps),
    }

  tables = {}
  for num_steps, turns in ((NUM_STEPS_OF_A_TURN, num_turns), (NUM_STEPS, NUM_WHOLE_CHAINS)):
    works = {
      name: timing.Work(chain, unet.BATCH_SIZE, num_steps * costs[name] * unet.BATCH_SIZE)
      for name, chain in chains(num_steps).items()
    }
    tables[f'{num_steps} steps'] = timing.compare(works, turns, 'pictures', ['ours'])
  sizes = {
    'ours': sum(leaf.size for leaf in jax.tree.leaves(params)),
    'diffusers': sum(leaf.numel() for leaf in model.parameters()),
  }
  cost = [
    {'network': name, 'parameters': sizes[name], 'GFLOP of a call': 1e-9 * costs[name]}
    for name in costs
  ]
  ratios = (of['ours'] / of['diffusers'] for of in (sizes, costs))
  cost.append(dict(zip(cost[0], ('ratio', *ratios), strict=True)))
  return tables | {'Cost': cost}
