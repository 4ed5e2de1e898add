"""Readers that turn datasets into prepared subjects, one per source.

``nsd``        the Natural Scenes Dataset (``nsd_choice``, ``nsd_design``, ``nsd_files``,
               ``nsd_voxels``), and its public bucket (``nsd_bucket``, ``needs``, ``s3``,
               ``download``)
``nsd_synthetic``  NSD-synthetic, artificial images shown to NSD's subjects
``laion``      LAION-fMRI (``laion_files``)
``algonauts``  the folders of the Algonauts 2023 challenge
``table``      any experiment with a table of trials, responses and a folder of images
               (``table_experiment``, ``table_trials``, ``image_folder``, ``table_responses``)
``glmsingle``  what GLMsingle left behind of any experiment
``simulated``  simulated subjects in the file formats of NSD (``simulated_cortex``,
               ``simulated_areas``, ``simulated_features``, ``simulated_encoder``,
               ``simulated_responses``, ``simulated_files``, ``simulated_artificial``,
               ``photographs``)

All readers use ``sessions`` and ``splits``. A new source is a module here with a function such as
`algonauts.prepare_subject`. The function passes a table of trials, the betas of each session, a
table of the voxels and an `Origin` to a `PreparedWriter` (`synbrain_cli.io`), and returns a
`PreparedSubject`. It is called by `synbrain_cli.pipeline.prepare`.
"""
