"""A loaded model of one subject's visual cortex.

``brain.py``       `Brain`, what `load_model` returns: mean, draws, volumes and surfaces
``loading.py``     bundle → networks, predictors, readout
``prediction.py``  the predictors that the mean is stacked from
``drawing.py``     how single-trial responses are drawn around the mean
``images.py``      images → tokens and digests
``berg.py``        models in the Brain Encoding Response Generator
``token_source.py``  image encoder, and files of tokens of the user's own
``matching.py``    whether model, prepared subject and tokens belong together
"""

from synbrain_cli.brain.brain import Brain, load_model

__all__ = ["Brain", "load_model"]
