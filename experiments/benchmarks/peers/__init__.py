"""One file a library: `variants(workload)` names its ways, `build(workload, weights, variant)`
makes a `Program` of one. Without weights it draws its own, by the library's initializers."""
