r"""The response distribution: draws of single trials around predictions of the mean.

Trial k of image i, over voxels:

.. math:: y_{ik} = m_i + s_i \odot C\big( (u_i + \sqrt{h_i} \odot e_{ik}) / s_i \big),
    \qquad s_i^2 = \sigma_u^2 + \langle h_i \rangle\, \sigma_e^2

- **m**, the mean: several predictions, stacked voxel by voxel (`synbrain_cli.model.stack`).
- **u**, signal that the predictions do not explain, the same on every repeat of an image: normal,
  low-rank plus private (`synbrain_cli.model.covariance`). Its variance is larger for images unlike
  those of training (`synbrain_cli.model.uncertainty`).
- **e**, trial noise: the same form. It depends on the response to the image, whether the
  predictions explain it or not: its variance is multiplied by

  .. math:: h_{iv} = \exp\Big(\beta_v \frac{m_{iv} + u_{iv} - c_v}{\rho_v}
      - \frac{\beta_v^2}{2} \Big(1 + \frac{\sigma_{uv}^2}{\rho_v^2}\Big)\Big)

  with c and ρ the mean and the standard deviation of m over images. h is 1 on average. Its mean
  over u is :math:`\langle h_{iv} \rangle = \exp(\beta_v x_{iv} - \beta_v^2/2)`,
  :math:`x = (m - c)/\rho`: variances are as if noise depended on m alone. How voxels vary
  together is not: where an unexplained response is large, trials vary more.
- **C**, a monotone curve of each voxel, through which residuals have the shape Q that was recorded,
  where it is not normal (counts are skewed, betas have outliers): C = Q ∘ G, with G the normal
  scores of (u + √h·e)/s (`synbrain_cli.model.curve.normal_scores`). Where Q is the identity,
  nothing is bent: y = m + u + √h·e.

The expected response is m. The standard deviation of a single trial around it, with u as unknown as
e, is :math:`s_i \odot \mathrm{SD}(Q)`, in closed form (`Readout.sd`). Averages of draws show
neither: those of one image share u unless asked otherwise, and u remains in their mean.

`fit_readout` estimates all but m from single trials and predictions of their images **by a model
that never saw these images**; residuals of training images would be too small.

The published alternative adds noise to the latent (`LatentReadout`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.groups import Groups
from synbrain_cli.model.components import Measured, Separation, VarianceComponents
from synbrain_cli.model.covariance import (
    LowRank,
    Normal,
    SecondMoment,
    add_factors,
    fit_low_rank,
)
from synbrain_cli.model.curve import (
    MOST_GROWTH,
    NODES,
    WIDE,
    Standardised,
    bend,
    fit_curve,
    normal_scores,
    sd_of_normal,
    straight,
)
from synbrain_cli.progress import UNSEEN, Share

MAX_SIGNAL_DEPENDENCE = 0.7
# Shares of variance components, signal dependence, factors of noise and of signal, and Q
TIMES = 3, 1, 36, 54, 13
Part = Literal["low_rank", "patterns", "signal_dependence", "curve"]
MIN_REGION = 10  # voxels of a region that has a factor of its own (ours)
IMAGE_BLIND = "image_blind_"  # names in files of a readout around the mean pattern


@dataclass(frozen=True)
class Readout:
    """The distribution of single trials around a mean. The module defines the symbols.

    Attributes
    ----------
    signal : LowRank
        u.
    noise : LowRank
        e, at the average response.
    signal_dependence : float32 array of shape (n_voxels,)
        β, the signal dependence of the noise variance, per SD of m.
    centre, spread : float32 arrays of shape (n_voxels,)
        Mean and standard deviation of m over images: x = (m − centre) / spread.
    curve : float32 array of shape (n_nodes, n_voxels)
        Q at `NODES`; beyond them it goes on with slope 1.
    """

    signal: LowRank
    noise: LowRank
    signal_dependence: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    curve: np.ndarray

    @classmethod
    def gaussian(cls, variance: np.ndarray) -> Readout:
        """Return independent normal noise of constant variance (n_voxels,), the simplest case."""
        n_voxels = len(variance)
        nothing = np.zeros(n_voxels, np.float32)
        return cls(
            LowRank.independent(nothing),
            LowRank.independent(variance),
            nothing,
            nothing,
            np.ones(n_voxels, np.float32),
            straight(n_voxels),
        )

    def of_image(self, relative: np.ndarray | None) -> Readout:
        """Return the distribution of an image whose mean is less sure than others, or surer.

        Parameters
        ----------
        relative : float array of shape (n_voxels,), optional
            Variance of u relative to its average over images (`synbrain_cli.model.uncertainty`);
            None for the average.
        """
        if relative is None or self.signal.is_nothing:
            return self
        return replace(self, signal=self.signal.scaled(relative))

    def relative_noise_variance(self, mean: np.ndarray) -> np.ndarray:
        """Return ⟨h⟩, the factor of the noise variance; shape of ``mean`` (..., n_voxels)."""
        return _relative_variance(self.signal_dependence, _standard(mean, self.centre, self.spread))

    @cached_property
    def _curve_sd(self) -> np.ndarray:
        """SD of Q of a standard normal variable, float64 (n_voxels,)."""
        return sd_of_normal(self.curve)

    def sd(self, mean: np.ndarray) -> np.ndarray:
        """Return the standard deviation of a single trial around its mean: exact, not from draws.

        Unexplained signal and trial noise are both unknown, as in draws with their own u each;
        draws that share one u vary less.

        Parameters
        ----------
        mean : float32 array of shape (..., n_voxels)
            m, on which the noise depends.

        Returns
        -------
        float32 array of shape (..., n_voxels)
        """
        h = self.relative_noise_variance(mean)
        return (self.scale(h) * self._curve_sd).astype(np.float32)

    @cached_property
    def growth(self) -> np.ndarray:
        """By how much log h grows with the response, per unit: β/ρ, float32 (n_voxels,).

        Of a voxel whose predictions hardly vary, β says little of a unit of the response: per SD of
        u it is `MOST_GROWTH` at most.
        """
        most = MOST_GROWTH / np.maximum(np.sqrt(self.signal.variance), 1e-12)
        return np.clip(self.signal_dependence / self.spread, -most, most).astype(np.float32)

    @cached_property
    def depends_on_signal(self) -> bool:
        """Whether trial noise depends on unexplained signal."""
        return bool(((self.growth != 0) & (self.signal.variance > 0)).any())

    def curve_of_sum(self, h: np.ndarray) -> np.ndarray:
        """Return C at `WIDE`, given ⟨h⟩ (n_voxels,): float32 (n_wide, n_voxels).

        Where noise does not depend on u, it is Q, at its own nodes.
        """
        if self.is_straight or not self.depends_on_signal:
            return self.curve
        return np.where(self._is_bent, bend(self.curve, self.scores(h)), WIDE[:, None])

    @cached_property
    def _is_bent(self) -> np.ndarray:
        """Voxels whose Q is not the identity: bool (n_voxels,)."""
        return (self.curve != NODES[:, None]).any(0)

    def scores(self, h: np.ndarray) -> np.ndarray:
        """Return G at `WIDE`, given ⟨h⟩ (n_voxels,): float32 (n_wide, n_voxels)."""
        if not self.depends_on_signal:
            return np.repeat(WIDE[:, None], len(self.centre), axis=1)
        share = self.signal.variance / np.square(self.scale(h))
        return normal_scores(share, self.growth * np.sqrt(self.signal.variance))

    def scale(self, h: np.ndarray) -> np.ndarray:
        """Return s, given ⟨h⟩; shape of ``h`` (..., n_voxels)."""
        return np.sqrt(np.maximum(self.signal.variance + h * self.noise.variance, 1e-24))

    def draw(
        self,
        mean: np.ndarray,
        signals: Sequence[Normal],
        noises: Sequence[Normal],
    ) -> np.ndarray:
        """Draw trials of one image.

        Parameters
        ----------
        mean : float32 array of shape (n_voxels,)
            m.
        signals, noises : sequences of numpy Generators
            Generators of u and of e for every draw, or one of u for all draws. Draws with the same
            generator state of u are repeats of one image.

        Returns
        -------
        float32 array of shape (n_draws, n_voxels)
            Each draw depends on its own generators alone, to the last bit.
        """
        if self.signal.is_nothing:
            return self.draw_given(mean, [np.zeros(len(mean), np.float32)], noises)
        if len(signals) == 1:
            return self.draw_given(mean, [self.signal.draw(signals[0])], noises)
        return self.draw_given(mean, map(self.signal.draw, signals), noises)

    def draw_given(
        self, mean: np.ndarray, signals: Iterable[np.ndarray], noises: Sequence[Normal]
    ) -> np.ndarray:
        """Draw trials of one image whose unexplained signal is known.

        Parameters
        ----------
        mean : float32 array of shape (n_voxels,)
            m.
        signals : iterable of float32 arrays of shape (n_voxels,)
            u of each draw, or one for all.
        noises : sequence of numpy Generators
            Of e of each draw.

        Returns
        -------
        float32 array of shape (n_draws, n_voxels)
        """
        return self.respond(mean, signals, map(self.noise.draw, noises), len(noises))

    def respond(
        self,
        mean: np.ndarray,
        signals: Iterable[np.ndarray],
        errors: Iterable[np.ndarray],
        n_draws: int,
    ) -> np.ndarray:
        """Return trials of one image whose unexplained signal and trial noise are known.

        Parameters
        ----------
        mean, signals
            As in `draw_given`.
        errors : iterable of float32 arrays of shape (n_voxels,)
            e of each draw.
        n_draws : int

        Returns
        -------
        float32 array of shape (n_draws, n_voxels)
        """
        h = self.relative_noise_variance(mean)
        scale, of_mean = self.scale(h).astype(np.float32), np.sqrt(h).astype(np.float32)
        curve = self.curve_of_sum(h)
        draws = np.empty((n_draws, len(mean)), np.float32)
        own, known = iter(signals), None
        u, gain = np.zeros(len(mean), np.float32), of_mean
        for k, e in enumerate(errors):  # one by one, what is computed stays in the cache
            u = next(own, u)  # the last one, or the only one, goes on
            if self.depends_on_signal and u is not known:
                gain, known = of_mean * self._root_of_signal(u), u
            t = (u + gain * e) / scale
            bent = t if self.is_straight else bend(curve, t[None])[0]
            draws[k] = mean + scale * bent
        return draws

    def _root_of_signal(self, u: np.ndarray) -> np.ndarray:
        """Return √(h/⟨h⟩) of an unexplained signal (n_voxels,)."""
        average = np.square(self.growth) * self.signal.variance / 4
        return np.exp(self.growth / 2 * u - average).astype(np.float32)

    @cached_property
    def is_straight(self) -> bool:
        """Whether Q is the identity."""
        return np.array_equal(self.curve, straight(self.curve.shape[1]))

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {f"{prefix}{stored}": getattr(self, name) for name, stored in _STORED.items()}
        for name in ("signal", "noise"):
            part: LowRank = getattr(self, name)
            named[f"{prefix}{name}_loadings"] = part.loadings
            named[f"{prefix}{name}_private"] = part.private
        return named

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray], prefix: str = "") -> Readout:
        """Rebuild from the named arrays of a file (`arrays`)."""
        signal, noise = (
            LowRank(named[f"{prefix}{name}_loadings"], named[f"{prefix}{name}_private"])
            for name in ("signal", "noise")
        )
        others = {name: named[f"{prefix}{stored}"] for name, stored in _STORED.items()}
        return cls(signal, noise, **others)


# Attributes and their names in files. The checksum of these files seeds the draws, so that a name
# in a file is not changed: ``growth`` is the signal dependence of the noise.
_STORED = {
    "signal_dependence": "growth",
    "centre": "centre",
    "spread": "spread",
    "curve": "curve",
}


@dataclass(frozen=True)
class Together:
    """Voxels and images that may have something in common.

    Attributes
    ----------
    regions : tuple of bool arrays of shape (n_voxels,)
        u and e have factors of each, by what its voxels share beyond the factors of all
        (`synbrain_cli.model.covariance.fit_low_rank`), and one more where its mean varies more than
        by these (`synbrain_cli.model.covariance.add_factors`).
    groups : int array of shape (n_images,), optional
        Groups of images that are never both fitted and held out, and that count as one where
        images count as independent (`synbrain_cli.groups`).
    """

    regions: tuple[np.ndarray, ...] = ()
    groups: Groups | None = None

    @property
    def large(self) -> list[np.ndarray]:
        """Regions of voxels enough for factors of their own."""
        return [region for region in self.regions if region.sum() >= MIN_REGION]


def fit_readout(
    trials: np.ndarray,
    image_index: np.ndarray,
    means: np.ndarray,
    generator: np.random.Generator,
    without: Container[Part] = (),
) -> Readout:
    r"""Estimate unexplained signal, trial noise, its dependence on the signal, and the curve.

    With r = y − m, n the repeats of an image and a bar for their average:

    - noise variance and unexplained signal: `synbrain_cli.model.components`;
    - factors of e: from :math:`\sum_{ik} d_{ik} d_{ik}^\top / \sum_i (n_i - 1)`,
      :math:`d_{ik} = y_{ik} - \bar y_i`;
    - factors of u: from products of *different* repeats, which share the signal and no noise,
      :math:`\sum_i \sum_{k \ne l} r_{ik} r_{il}^\top / \sum_i n_i (n_i - 1)`;
    - further factors of both: from the variances of means over regions and of sums over the
      patterns in which predictions vary (`VarianceComponents.sums`);
    - signal dependence: :math:`\beta = \mathrm{cov}_i(S_i^2, x_i) / \sigma_e^2`, with
      :math:`S_i^2` the variance over the repeats of image i, weighted by n − 1: the slope at the
      average response.
      Estimates of single voxels are noisy. Per SD of the whole signal, m + u, they are shrunk
      towards that of all (empirical Bayes, Efron & Morris 1975, JASA 70:311);
    - curve: `synbrain_cli.model.curve`, of the quantiles of r / s.

    Where no image was repeated, u and e cannot be separated: all residual variance is assigned to
    e, and u is 0. Where few were, their variances are shrunk over voxels.

    Parameters
    ----------
    trials : float32 array of shape (n_trials, n_voxels)
        Single trials, standardised.
    image_index : int array of shape (n_trials,)
        Row of ``means`` of each trial's image.
    means : float32 array of shape (n_images, n_voxels)
        Predictions by a model not fitted on that image.
    generator : numpy Generator
    without : container of {"low_rank", "patterns", "signal_dependence", "curve"}
        Parts that are left out, for comparisons.
    """
    return fit_separated(trials, image_index, means, generator, without)[0]


def fit_separated(
    trials: np.ndarray,
    image_index: np.ndarray,
    means: np.ndarray,
    generator: np.random.Generator,
    without: Container[Part] = (),
    together: Together | None = None,
    share: Share = UNSEEN,
) -> tuple[Readout, Separation]:
    """Fit the readout, and say how surely unexplained signal is told from noise: `fit_readout`."""
    together = together or Together()
    groups = together.groups
    of_components, of_dependence, of_noise, of_signal, of_curve = share.split(*TIMES)
    components = VarianceComponents(
        trials, image_index, means, together.large, of_components, groups
    )
    centre, spread = _moments_over_images(means)
    slope = np.zeros_like(components.noise)
    if "signal_dependence" not in without:
        slope = _signal_dependence(components, means, centre, spread)
        of_dependence.to(1)

    noise = LowRank.independent(components.noise)
    signal = LowRank.independent(components.signal)
    if "low_rank" not in without:
        noise = _fit_noise(components, generator, together, of_noise, without)
        signal = _fit_signal(components, generator, together, of_signal, without)
    readout = Readout(
        signal,
        noise,
        slope.astype(np.float32),
        centre.astype(np.float32),
        spread.astype(np.float32),
        straight(len(slope)),
    )
    if "curve" not in without:
        readout = _with_curve(readout, trials, image_index, means, groups, of_curve)
    return readout, components.separation()


def fit_image_blind(
    readout: Readout,
    trials: np.ndarray,
    image_index: np.ndarray,
    pattern: np.ndarray,
    generator: np.random.Generator,
    together: Together | None = None,
) -> Readout:
    """Fit the distribution of trials of an image that nothing is known of, around one pattern.

    All signal is unexplained: u is the whole of it. The trial noise is that of ``readout``, and
    depends on u as it does there; where images were not repeated, it is what trials leave of the
    pattern. The pattern is the ``centre`` of the result.

    Parameters
    ----------
    readout : Readout
        Fitted to the same trials around predictions of their images.
    trials : float32 array of shape (n_trials, n_voxels)
    image_index : int array of shape (n_trials,)
    pattern : float32 array of shape (n_voxels,)
    generator : numpy Generator
    together : Together, optional
    """
    together = together or Together()
    means = np.broadcast_to(pattern, (int(image_index.max()) + 1, len(pattern)))
    components = VarianceComponents(
        trials, image_index, means, together.large, groups=together.groups
    )
    noise, dependence = readout.noise, readout.signal_dependence
    if not components.separable:
        noise, dependence = _fit_noise(components, generator, together), np.zeros_like(pattern)
    signal = _fit_signal(components, generator, together)
    # ⟨h⟩ of the average response is below the 1 that it is on average over responses
    noise = noise.scaled(np.exp(np.square(dependence) / 2))
    line = straight(len(pattern))
    blind = Readout(signal, noise, dependence, pattern, readout.spread, line)
    return _with_curve(blind, trials, image_index, means, together.groups)


def _with_curve(
    readout: Readout,
    trials: np.ndarray,
    image_index: np.ndarray,
    means: np.ndarray,
    groups: Groups | None,
    share: Share = UNSEEN,
) -> Readout:
    """Fit Q to the residuals of a readout without it."""
    standardised = _standardised(readout, trials, image_index, means)
    whole = image_index if groups is None else groups[image_index]  # is left out as one
    scores = readout.scores(readout.relative_noise_variance(readout.centre))
    return replace(readout, curve=fit_curve(standardised, whole, scores, share))


def _standardised(
    readout: Readout, trials: np.ndarray, image_index: np.ndarray, means: np.ndarray
) -> Standardised:
    """Residuals in standard deviations, of some voxels at a time."""
    signal, noise = readout.signal.variance, readout.noise.variance

    def standardised(some: slice) -> NDArray[np.float32]:
        x = _standard(means[:, some], readout.centre[some], readout.spread[some])
        h = _relative_variance(readout.signal_dependence[some], x)
        scale = np.sqrt(np.maximum(signal[some] + h * noise[some], 1e-24))
        residuals = (trials[:, some] - means[image_index, some]).astype(np.float32)
        return (residuals / scale[image_index]).astype(np.float32)

    return standardised


def _fit_noise(
    components: VarianceComponents,
    generator: np.random.Generator,
    together: Together,
    share: Share = UNSEEN,
    without: Container[Part] = (),
) -> LowRank:
    """Variances and factors of e, from contrasts of repeats."""
    moment = SecondMoment(components.noise_terms(), components.degrees, together.groups)
    large = together.large
    found = fit_low_rank(moment, components.noise, generator, large, share=share)
    return _with_sums(found, components, components.of_sums.noise, without)


def _fit_signal(
    components: VarianceComponents,
    generator: np.random.Generator,
    together: Together,
    share: Share = UNSEEN,
    without: Container[Part] = (),
) -> LowRank:
    """Variances and factors of u, from products of different repeats."""
    if not components.signal.any():
        return LowRank.independent(components.signal)
    weight = components.n_repeats * (components.n_repeats - 1.0)
    moment = SecondMoment(components.signal_terms(), weight, together.groups)
    large = together.large
    found = fit_low_rank(moment, components.signal, generator, large, share=share)
    return _with_sums(found, components, components.of_sums.signal, without)


def _with_sums(
    found: LowRank,
    components: VarianceComponents,
    measured: Measured,
    without: Container[Part],
) -> LowRank:
    """Add factors of regions, then of predicted patterns, by the variances of sums over voxels.

    Regions come first: patterns that lack nothing would else hold their factors down.
    """
    sums, some = components.sums, components.is_pattern
    found = add_factors(found, sums[~some], measured.variance[~some])
    if "patterns" in without or not some.any():
        return found
    of_patterns = Measured(measured.variance[some], measured.error[some])
    return add_factors(found, sums[some], _pooled(of_patterns, found.variance_of(sums[some])))


def _pooled(measured: Measured, known: np.ndarray) -> np.ndarray:
    r"""Pool the variances along patterns towards a multiple of what the factors found say.

    Of few images each variance v is uncertain, and where chance made one too small no factor makes
    up for others that it made too large. With k what is known and ε the standard errors,

    .. math:: \hat v = \rho k + \sqrt{\max\big(0, 1 - {\textstyle \sum} \epsilon^2 /
        {\textstyle \sum} (v - \rho k)^2\big)}\, (v - \rho k), \qquad
        \rho = {\textstyle \sum} k v / {\textstyle \sum} k^2

    so that what is apart from ρk varies as the truth does (Louis 1984, as in `pool`). Patterns of
    voxels that hardly vary count little in ρ, as does their error.

    Parameters
    ----------
    measured : Measured
    known : float64 array of shape (n_patterns,)

    Returns
    -------
    float64 array of shape (n_patterns,)
    """
    common = known * (known @ measured.variance) / max(known @ known, 1e-30)
    apart = measured.variance - common
    kept = max(0.0, 1 - np.square(measured.error).sum() / max(np.square(apart).sum(), 1e-30))
    return np.asarray(common + np.sqrt(kept) * apart)


def _moments_over_images(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each voxel; 1 where it does not vary."""
    centre = means.mean(0, dtype=np.float64)
    spread = np.empty_like(centre)
    for some in _blocks(means.shape[1]):
        spread[some] = means[:, some].std(0, dtype=np.float64)
    return centre, np.where(spread > 1e-6, spread, 1.0)


def _blocks(n_voxels: int) -> list[slice]:
    """Voxels that are computed together, where all would take too much memory."""
    return [slice(start, start + 512) for start in range(0, n_voxels, 512)]


def _standard(mean: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Standardised mean x (..., n_voxels); nothing is extrapolated beyond three SDs."""
    return np.clip((mean - centre) / spread, -3, 3)


def _relative_variance(signal_dependence: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Factor h of the noise variance (..., n_voxels), 1 on average over normal x."""
    return np.exp(signal_dependence * x - signal_dependence**2 / 2)


def _signal_dependence(
    components: VarianceComponents, means: np.ndarray, centre: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """Signal dependence β of every voxel, per SD of m.

    Per SD of the whole signal, m + u, it is shrunk towards the mean over voxels: noise does not
    know how much of the signal is predicted.
    """
    degrees, noise = components.degrees[:, None], np.maximum(components.noise, 1e-12)
    share = components.degrees / components.degrees.sum()
    slope, error = np.empty((2, means.shape[1]))
    for some in _blocks(means.shape[1]):
        x = _standard(means[:, some], centre[some], spread[some])
        relative = components.within[:, some] / np.maximum(degrees, 1) / noise[some]
        per_image = np.where(degrees > 0, (relative - 1) * x, 0)
        slope[some] = share @ per_image
        error[some] = np.sqrt(share**2 @ (per_image - slope[some]) ** 2)
    whole = np.sqrt(1 + components.signal / np.square(spread))
    found = shrink(slope * whole, error * whole)
    return np.clip(found, -MAX_SIGNAL_DEPENDENCE, MAX_SIGNAL_DEPENDENCE) / whole


def shrink(estimates: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Shrink estimates (n_voxels,) towards their mean by empirical Bayes, more for larger errors.

    The variance of the truth over voxels is that of the estimates less that of their errors.
    """
    variance = max(0.0, np.var(estimates) - np.mean(errors**2))
    total = np.maximum(variance + errors**2, 1e-24)
    mean = np.average(estimates, weights=1 / total)
    return mean + variance / total * (estimates - mean)


# ------------------------------------------------------------------------------ the mean


def signal_left(
    readout: Readout, stacked: np.ndarray, linear: np.ndarray, averages: np.ndarray
) -> Readout:
    """Reduce u by what the stack explains beyond the predictions that the readout was fitted on.

    Both squared errors hold the same noise, so their difference over validation images is the
    signal gained (or lost); shrunk over voxels, and altogether by its standard error, as it rests
    on few images.

    Parameters
    ----------
    readout : Readout
        Fitted on predictions of the kind of ``linear``.
    stacked, linear, averages : float arrays of shape (n_images, n_voxels)
        Held-out predictions of validation images, and what was recorded.
    """
    gain = (averages - linear) ** 2.0 - (averages - stacked) ** 2.0
    error = gain.std(0, ddof=1) / np.sqrt(len(gain))
    of_voxels = shrink(gain.mean(0), error)
    # The networks were stopped where they predict these very images best: of the gain of all
    # voxels, only what exceeds its standard error over images is sure enough to be taken.
    of_images = gain.mean(1)
    unsure = of_images.std(ddof=1) / np.sqrt(len(gain))
    of_voxels -= np.clip(of_images.mean(), -unsure, unsure)
    return less_signal(readout, of_voxels)


def less_signal(readout: Readout, variance: np.ndarray) -> Readout:
    """Take variance (n_voxels,) from u, but no more than nine tenths of it: it is an estimate."""
    whole = readout.signal.variance
    left = np.where(whole > 0, np.maximum(whole - variance, 0.1 * whole), 0)
    return replace(readout, signal=readout.signal.with_variance(left))


# ---------------------------------------------------------------- noise in the latent, as published


@dataclass(frozen=True)
class LatentReadout:
    """Noise added to the mapper's latent before decoding.

    Attributes
    ----------
    sd : float32 array of shape (n_tokens, n_dims)
        Standard deviation of the posterior, root mean square over training trials: the noise with
        which the decoder was trained.
    """

    sd: np.ndarray

    def noise(self, generator: np.random.Generator, factor: float | None) -> np.ndarray:
        """Return one draw of noise: float32 (n_tokens, n_dims); ``factor`` as in `Brain.draw`."""
        normal = generator.standard_normal(self.sd.shape, np.float32)
        return normal * (self.sd if factor is None else np.float32(factor))
