"""Learning without labels: restricted Boltzmann machines, autoencoders, sparse coding and features.

A *fit* is a function `(key, x, features, **options) -> params`, where x is (n, inputs) and the
params are those of an ordinary layer, `jn.dense(features)` mostly. So what was learned without
labels stands in `serial` like any other layer and can be trained further.
"""
