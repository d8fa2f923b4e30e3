"""What the table "vitals" of a run holds: a sentence for each quantity."""

from __future__ import annotations

VITALS: dict[str, str] = {
    # A parameter: up to about 4096 of its values, evenly strided, are looked at.
    "value_norm": "norm of the values after the step",
    "update_norm": "norm of what the step changed",
    "unmoved": "share of the values that the step left exactly as they were",
    "dimensions": "number of axes: 2 or more for a weight",
    "epsilon": "spacing of the parameter's dtype at 1",
    "gradient_norm": "norm of the gradient, all values",
    "no_gradient": "1: no gradient arrived while others got one",
    "value_mean": "mean of the values, of a parameter of a spiking layer",
    "gradient_mean": "mean of the gradient, of a parameter of a spiking layer",
    # A spiking layer.
    "dead_units": "share of units without a spike in any sample and timestep of the step",
    "saturated_units": "share of units that fired in each sample and timestep of the step",
    "units": "number of units",
    "chances": "samples times timesteps that a unit had to fire",
    "input_frozen": "share of the input's variance that stays from t = 1 to t = T",
    "scale_felt": "|sum of s dL/ds| / sum of |s dL/ds|; 0 where what follows absorbs the scale",
    "gradient_tiny": "smallest normal number of the dtype in which the gradient arrives",
    "threshold": "mean threshold in force, where it may be learned",
    "decay": "mean decay in force, where it may be learned",
    "synapse_decay": "mean decay of the synapse in force, where it may be learned",
    # A batch norm.
    "norm_batch": "1 if it normalised by the statistics of the batch, 0 by its running ones",
    "norm_off": "rms over channels of running mean - batch mean, in standard deviations",
    "norm_scale": "rms over channels of ln(running / batch standard deviation)",
    "norm_shift": "rms over channels of (mean at t - mean over all t), in standard deviations",
    "norm_apart": "1 if each timestep was normalised by its own statistics",
    "gamma_mean": "mean of its scale over channels",
    # The whole model.
    "loss_scale": "factor of the scaled loss; 1 without a scaler",
}
"""Meaning of each quantity."""
