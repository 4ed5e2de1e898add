"""The report of a model: one HTML page, and its sections.

``page.py``          what a page is made of, and how it is written
``map_pictures.py``  maps as pictures with alternative texts
``model.py``         which model and settings, adaptation, provenance
``responses.py``     synthesized responses
``recordings.py``    draws compared with recorded trials
``scores.py``        accuracy and calibration
``preparations.py``  versions of the betas
``layers.py``        bands of the linear encoder
"""
