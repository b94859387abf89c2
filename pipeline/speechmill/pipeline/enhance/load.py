"""From the settings of an enhancer to the loaded one."""

from speechmill.pipeline.enhance.api import Enhancer, EnhancerSettings


def load_enhancer(settings: EnhancerSettings) -> Enhancer:
    """Raises `CheckpointError` for weights that cannot be had or are not of this model."""
    if settings.name == "spectral-gating":
        from speechmill.pipeline.enhance.spectral_gating import SpectralGating

        return SpectralGating(settings.sample_rate)
    assert settings.model
    if settings.name == "gtcrn":
        from speechmill.pipeline.enhance.gtcrn import Gtcrn

        return Gtcrn(settings.model)
    from speechmill.pipeline.enhance.onnx_stft import OnnxStft

    return OnnxStft.ul_unas(settings.model) if settings.name == "ul-unas" else OnnxStft(settings)
