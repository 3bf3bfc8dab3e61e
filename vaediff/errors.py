"""The one error that means: the input is wrong, and here is how to mend it."""


class InputError(Exception):
  """The user's input is wrong. The message is one line: what arrived, what is allowed, the remedy.

  `experiments.run` prints it and exits with status 2; anything else is a fault of the program.
  """
