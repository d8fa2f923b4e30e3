"""A text of each rule, as it wrote it about a run of the planted benchmark or at its bound."""

from __future__ import annotations

EXAMPLES: dict[str, str] = {
    "P1": (
        "2,829 of 82,944 spikes are not explained by the declared decay, threshold and "
        "reset. Do not trust u and the gradients of this layer before the declaration "
        "matches what the layer does."
    ),
    "P2": (
        "24% of dL/du does not follow from the declared surrogate and reset. Coverage and"
        " surrogate gain of this layer may be those of another surrogate: spikescope lint"
        " measures the one it has."
    ),
    "P3": (
        "1 of 3 spiking layers are not recorded, the first is 'other': it is recurrent. "
        "Every other finding is silent about them."
    ),
    "P4": (
        "In 2 of 2 layers, 'model.lif.0' the first, its state was not reset between the "
        "step before and the recorded one. Unless you train on a stream by intention, "
        "potentials of one batch leak into the next from step 4 on, and t counts from "
        "another start."
    ),
    "P5": (
        "60.0% of the potentials are NaN or infinite, first at t = 1, since step 204. "
        "What this layer emits means nothing from there on."
    ),
    "S10": (
        "At t = 6 the gradient rests on 0.34% of the elements: the surrogate's width at "
        "half height is 0.014 standard deviations of u. The gradient of one batch is "
        "mostly noise."
    ),
    "S11": (
        "The surrogate is as wide as a rectangle of 30, 15.7 times the rms distance of u "
        "from the threshold (1.9). It treats a spike as a straight line, so the gradient "
        "points elsewhere than the loss falls."
    ),
    "M1": (
        "At t = 1 u is -5.81 ± 1.11 thresholds (mean ± spread), at t = 6 it is -11.45 ± "
        "2.34: the laws lie 5.63 thresholds apart, chance alone would show 0.043. A start"
        " potential of -11.45 instead of 0 would remove 81% of the shift at t = 1, at the"
        " current weights."
    ),
    "M2": (
        "The law of u at t = 1 lies 0.27 thresholds from where it lay before step 200; "
        "jitter alone would show 0.000. A width, threshold or start that fits today will "
        "not fit later."
    ),
    "M3": (
        "Even where it is nearest (t = 6) the mean of u (-11.4) lies 5.3 standard "
        "deviations below the threshold 1. Its spread of 2.3 hardly ever crosses it."
    ),
    "M4": (
        "The input (mean 0.88, spread over time 0.0037) drives the units past the "
        "threshold 1 with little noise: they fire nearly periodically, |lambda_2| = 0.98."
        " A constant start potential makes all of them ring together."
    ),
    "M5": (
        "97.3% of the variance of the input of 'blocks.2.lif' is the same at t = 1 and t "
        "= 6 (1 of 3 layers). The timesteps after the first tell this layer next to "
        "nothing new."
    ),
    "M6": (
        "At the last timestep (t = 12) u is still 3.59 thresholds from where its input "
        "leads: with a decay of 0.9, 28% of the start is left. 38.3% of the units fire "
        "there."
    ),
    "R1": (
        "'blocks.0.lif' emits no spike at all in the last 6 recorded steps: at best (t = "
        "4) the mean of u is 0.018 against a threshold of 1. What follows it gets an "
        "input without content."
    ),
    "R2": (
        "100% of the units fire at each timestep of each sample. A spike that always "
        "comes says nothing: the layer has become a constant."
    ),
    "R3": (
        "At 2 of 4 timesteps, t = 1 the first, the rate is below 1% of the 0.2 at t = 3. "
        "Those timesteps are paid for and carry nothing."
    ),
    "R4": (
        "'block1.lif' fires 102 times less than 'block0.lif' (0.0039 against 0.4). The "
        "quiet one is where information is lost."
    ),
    "R5": (
        "At t = 4 the layer fires with a rate of 0.3, 3.0 times more than its stationary "
        "law (0.1) under an input of mean 0.2 and spread 0.5. Units that differ, or an "
        "input with memory, would explain it."
    ),
    "G1": (
        "Only 0.0% of the elements lie where the surrogate exceeds 1% of its peak at t ="
        " 1 (all 6 timesteps below 15%). 100% of them lie below the threshold; a window "
        "of this width could cover 97%."
    ),
    "G2": (
        "The norm of dL/du at 'blocks.0.lif' is 0.00028 of that at 'blocks.2.lif': over 3"
        " spiking layers it keeps a factor of 0.017 per layer. The early layers learn "
        "slowly or not at all."
    ),
    "G3": (
        "The rms of dL/du at t = 1 is 4.7e-05 of that at t = 8, a factor of 0.24 per "
        "timestep. What the layer did early in the sequence hardly shapes its weights."
    ),
    "G4": (
        "Coverage is 100% at t = 1, but the rms of the surrogate there is only 0.093 per "
        "threshold (its peak is 1). Each such layer shrinks the gradient by about this "
        "factor: coverage alone is not health."
    ),
    "G5": (
        "The norm of dL/du at 'blocks.0.lif' is 5.86e+05 times that at 'blocks.4.lif', a "
        "factor of 28 per layer over 5 spiking layers. One learning rate cannot serve "
        "both ends."
    ),
    "G6": (
        "The rms of dL/du at t = 1 is 18.9 times that at t = 4: it grows by 2.7 with each"
        " timestep that it goes back. Leaks that add up explain 1.9 of it; the first "
        "timesteps drown out the others."
    ),
    "G7": (
        "No gradient reaches 'blocks.0.lif', while it reaches others: the loss does not "
        "depend on what it emits. So it was in each of the last 6 recorded steps; its "
        "weights and those before it learn nothing."
    ),
    "G8": (
        "NaN or infinite values in dL/du of 'blocks.1.lif' at 10 of 60 recorded steps, "
        "first at step 200. Nothing that is learnt since then can be trusted."
    ),
    "G9": (
        "The rms of the gradient times the loss scale of 1 is 0.0009 of the smallest "
        "normal number of its dtype (6.1e-05); 81% of its values are exactly 0. What is "
        "below loses its digits or vanishes."
    ),
    "G10": (
        "Each step moves 'lif.threshold' by 1.0%, while the mean of its gradient is 0 of "
        "its noise over 8 records. It walks at random, and threshold or decay with it."
    ),
    "G11": (
        "A change of the height of its spikes would change the loss by 9.9e-03 of what "
        "its parts do: a batch norm behind it absorbs the scale. A surrogate that relies "
        "on the height (TrSG) equals RS here."
    ),
    "G12": (
        "A gradient arrives at 'blocks.0.linear.weight' and 3 other weights of 4, yet no "
        "step moved them in 6 recorded steps. The optimiser does not hold them, its rate "
        "is 0, the gradient is too small for a step to be felt, or probe.step() is called "
        "before it."
    ),
    "T1": ("The loss is NaN or infinite since step 2, for 1 steps. It was 0.9 before."),
    "T2": ("The learned threshold went from 1 to -0.72. Units then fire without any input."),
    "T3": (
        "'lif.0.threshold' of mean 1 asks to be trained, and none of 25 recorded steps "
        "moved it; so do 1 others of its kind. It is at a clamp, gets no gradient, or the"
        " optimiser does not hold it."
    ),
    "T4": (
        "At t = 1 the channels of the input of 'blocks.0.norm' lie 0.78 standard "
        "deviations (rms) from their means over all timesteps. One set of statistics "
        "serves all timesteps and fits none."
    ),
    "T5": (
        "'blocks.2.norm' will evaluate with running statistics that do not fit: their "
        "mean is 19542.81 standard deviations (rms over channels) off that of the batch, "
        "and so in 1 norms."
    ),
    "T6": (
        "All 25 recorded steps with a gradient ran in evaluation mode. Batch norm and "
        "dropout then do not train; the other findings speak of these steps."
    ),
    "T7": (
        "After 100 steps the loss is 5.38 times that of the first ones (1.46). The steps "
        "lead uphill."
    ),
}
