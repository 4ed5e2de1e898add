"""Image encoders: ``images`` reads image files, ``loading`` loads an encoder by its name.

The encoders (base class in ``encoder``) are ``gabor``, which needs no weights, and the vision
towers of ``openclip``.
"""
