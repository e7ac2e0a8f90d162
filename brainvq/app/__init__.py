"""The verbs of the application: train, predict, compare, prepare, simulate; none knows a kind."""
