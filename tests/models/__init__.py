import functools

import jax

# Compiling takes most of these tests' time; with little optimisation it takes a fraction of it.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
