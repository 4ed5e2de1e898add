"""What is out there → prepared subjects: one reader a source.

``nsd``        the Natural Scenes Dataset (``nsd_choice``, ``nsd_design``, ``nsd_files``,
               ``nsd_voxels``), and its public bucket (``nsd_bucket``, ``s3``, ``download``)
``algonauts``  the folders of the Algonauts 2023 challenge
``table``      any experiment: a table of trials, responses, a folder of images
               (``table_experiment``, ``table_trials``, ``table_responses``)
``simulated``  simulated subjects in NSD's own files (``simulated_cortex``,
               ``simulated_responses``, ``simulated_files``, ``photographs``)

``sessions`` and ``splits`` are common to the readers. A new source is a module here with a
function like `algonauts.prepare_subject`: it hands a table of trials, the betas of each session,
what is known of the voxels and an `Origin` to a `PreparedWriter` (`synbrain_cli.io`), and returns
a `PreparedSubject`; `synbrain_cli.pipeline.prepare` calls it.
"""
