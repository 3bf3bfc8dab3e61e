"""F13: the two chains side by side, moving (lecture sections 2.2 and 4)."""

import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study
from vaediff import likelihoods, reporting

TITLE = 'The two chains, from noise to pictures'
CAPTION = (
  'The same noise at the start, the same network and schedule: plain repeated denoising and '
  'diffusion, which puts noise back at every step. The still picture shows some of the levels.'
)
RUNS = ('denoising_chain', 'diffusion')
NUM_SHOWN, NUM_COLUMNS, NUM_FRAMES, NUM_STILLS = 16, 4, 60, 8
FRAME_MILLISECONDS = 60


def compute(study: Study) -> dict[str, np.ndarray]:
  arrays = {}
  for name in RUNS:
    run = study.run(name)
    chains = run.tools.draw_chains(run.variables, NUM_SHOWN)[0]['x']
    shown = np.unique(np.linspace(0, chains.shape[1] - 1, NUM_FRAMES).round().astype(int))
    arrays[name] = np.asarray(likelihoods.quantize(chains[:, shown], 256))
  return arrays


def draw(arrays):
  num_frames = arrays[RUNS[0]].shape[1]
  shown = np.linspace(0, num_frames - 1, NUM_STILLS).round().astype(int)
  fig, axes = style.panels(1, 2, width=4.0)
  titles = ('plain repeated denoising', 'diffusion')
  for ax, name, title in zip(axes[0], RUNS, titles, strict=True):
    states = arrays[name][:4, shown]
    style.pictures(ax, states.reshape(-1, *states.shape[2:]), NUM_STILLS, title)
  return fig


def animate(arrays) -> list[np.ndarray]:
  """Frames [H, W, 3] uint8: the chain on the left, diffusion on the right."""
  frames = []
  for i in range(arrays[RUNS[0]].shape[1]):
    sides = [reporting.grid(arrays[name][:, i], 256, NUM_COLUMNS) for name in RUNS]
    gap = np.full((sides[0].shape[0], 8, 3), 255, np.uint8)
    frames.append(np.concatenate([sides[0], gap, sides[1]], axis=1))
  return frames
