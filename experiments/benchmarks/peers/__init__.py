"""One file per library: `variants(workload)` names its variants, and `build(workload, weights,
variant)` makes the `Program` of one, without weights by the library's initializers."""
