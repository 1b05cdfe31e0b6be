"""Functional-gradient experiments: what gradients in weights and images tell about a network."""
from morel_jax.gradients.conflict import (
    Conflict,
    compare,
    conflict,
    conflict_per_layer,
    gram,
    gram_per_layer,
    objective_gradients,
)
from morel_jax.gradients.curvature import (
    hessian_eigenpairs,
    hessian_vector_product,
    input_hessian_eigenpairs,
    input_hessian_vector_product,
    sharpness,
)
from morel_jax.gradients.lanczos import Eigenpairs, lanczos, power_iteration
from morel_jax.gradients.landscape import filter_normalised_direction, input_directions, surface
from morel_jax.gradients.linearity import LinearityError, gradient_alignment, linearity_error
from morel_jax.gradients.margins import Margins, linearised_margins, lipschitz_bounds, lipschitz_margins
from morel_jax.gradients.per_example import (
    input_gradient_norms,
    input_gradients,
    parameter_gradient_norms,
    parameter_gradients,
)
from morel_jax.gradients.preference import PreferenceInfluence, preference_influence, update_directions
from morel_jax.gradients.saliency import gradient_saliency, gradient_times_input, integrated_gradients, smooth_grad

__all__ = [
    "Conflict", "Eigenpairs", "LinearityError", "Margins", "PreferenceInfluence", "compare", "conflict",
    "conflict_per_layer", "filter_normalised_direction", "gradient_alignment", "gradient_saliency",
    "gradient_times_input", "gram", "gram_per_layer", "hessian_eigenpairs", "hessian_vector_product",
    "input_directions", "input_gradient_norms", "input_gradients", "input_hessian_eigenpairs",
    "input_hessian_vector_product", "integrated_gradients", "lanczos", "linearised_margins", "linearity_error",
    "lipschitz_bounds", "lipschitz_margins", "objective_gradients", "parameter_gradient_norms", "parameter_gradients",
    "power_iteration", "preference_influence", "sharpness", "smooth_grad", "surface", "update_directions",
]
