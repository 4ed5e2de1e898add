"""A loaded model of one subject's visual cortex.

``brain.py``         `Brain`, what `load_model` returns: draws of responses to images
``loaded_model.py``  what it holds and predicts without drawing; tokens, volumes, surfaces
``loading.py``       bundle → networks, predictors, readout
``prediction.py``    the predictors that the mean is stacked from
``drawing.py``       how single-trial responses are drawn around the mean
``sequence.py``      whole sessions, their trials in order
``images.py``        images → tokens and digests
``token_source.py``  image encoder, and files of tokens of the user's own
``matching.py``      whether model, prepared subject and tokens belong together
``layouts.py``       names and shapes of the arrays in each file of a bundle
``berg.py``          models in the Brain Encoding Response Generator
"""

from synbrain_cli.brain.brain import Brain, load_model

__all__ = ["Brain", "load_model"]
