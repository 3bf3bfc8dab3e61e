"""The errors that a user meets: each is one line that says what is wrong and how to mend it."""


class InputError(Exception):
  """The user's input is wrong. The message is one line: what arrived, what is allowed, the remedy.

  `experiments.run` prints it and exits with status 2.
  """


class RunError(Exception):
  """The run cannot go on, though its input is in order: damaged files, a full disk, a NaN.

  The message is one line: what happened, what is left, the remedy. `experiments.run` prints it and
  exits with status 1.
  """
