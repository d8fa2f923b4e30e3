"""What is true: pure mathematics on arrays and recorded runs, without torch.

The doors, and what stands behind them:

- ``neuron`` (``neuron_spec``): one layer's dynamics, its step and its replay.
- ``surrogate`` (``surrogate_shapes``, ``laws``): derivative, area, interval, moments;
  ``surrogate_frameworks`` translates the frameworks' parameters, ``surrogate_identify`` names a
  measured derivative, ``surrogate_conditions`` says what conditions III and IV ask of it and
  ``surrogate_solutions`` solves them.
- ``stationary`` (``layer_laws``, ``unit_law``, ``potential_law``, ``transfer``,
  ``potential_range``, ``input_noise``): the law that a layer settles to;
  ``stationary_report`` puts it into words.
- ``drift`` (``distance``, ``effective``, ``law_difference``, ``training_drift``): has a law moved?
- ``stability`` (``growth``, ``depth``, ``trajectory``, ``gradient_statistics``,
  ``recurrent_density``, ``drive_law``, ``weight_scale``): conditions I and II, growth.
- ``initialisation`` (``dale``, ``decolle``, ``sparsity``): weights before training; ``preset``
  recommends by numbers.
- ``remedies`` (``start_potential``, ``adaptive_window``, ``threshold_gradient``) and ``whatif``
  (``reset_recursion``, ``window_verdict``): what a published remedy does, and would do.
- ``recommend`` (``recommend_layer``, ``recommend_forward``, ``recommend_start``,
  ``recommend_surrogate``, ``recommend_choice``, ``snippets``): what to change before training,
  solved on a ``layer_record`` (``layer_gradient``, ``layer_figures``).
- ``recorded_law`` and ``recorded_gain``: what theory predicts for a recorded layer from its forward
  pass alone.
- ``findings``: what a recorded run shows. ``compare`` (``compare_curves``,
  ``compare_statistics``): how two runs differ, and where they part.
- ``attribution`` (``attribution_plan``, ``attribution_result``, ``attribution_study``,
  ``timestep_result``, ``fidelity``): what carries a decision. The one door behind which torch is.
"""
