"""Pictures → tokens: ``images`` reads them, ``loading`` makes an encoder by name.

Encoders (``encoder``) are ``gabor``, which needs no weights, and ``openclip``'s vision towers.
"""
