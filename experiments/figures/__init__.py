"""The figures of the paper, one module each, in order."""

from experiments.figures import (
  autoencoder,
  balance,
  bound_terms,
  divergence,
  feedback,
  posteriors,
  refinement,
  repeated_denoising,
  samplers,
  small_steps,
  trajectories,
  variational_autoencoder,
  warmup,
)

# {name of the files: module}.
FIGURES = {
  'f01_autoencoder': autoencoder,
  'f02_repeated_denoising': repeated_denoising,
  'f03_variational_autoencoder': variational_autoencoder,
  'f04_divergence': divergence,
  'f05_balance': balance,
  'f06_warmup': warmup,
  'f07_refinement': refinement,
  'f08_posteriors': posteriors,
  'f09_small_steps': small_steps,
  'f10_bound_terms': bound_terms,
  'f11_feedback': feedback,
  'f12_samplers': samplers,
  'f13_trajectories': trajectories,
}
