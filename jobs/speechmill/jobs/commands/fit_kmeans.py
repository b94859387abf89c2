"""`speechmill fit-kmeans`: the semantic codebook of a codec from the features of its shards.

OUTPUT/checkpoint.safetensors   the codec with its centroids, the rest untrained
OUTPUT/config.json              its configuration, tied to the model of the features
OUTPUT/config.yaml versions.json checkpoints/
"""

import json

import torch

from speechmill.codecs import load_recipe
from speechmill.codecs.recipe import CentroidRecipe
from speechmill.jobs.display import Display
from speechmill.jobs.training.checkpoints import put_weights
from speechmill.jobs.training.kmeans import FitConfig, KMeansFit
from speechmill.jobs.training.logging import describe_run
from speechmill.jobs.training.stream import SampleStream
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage, join


def fit_codebook(config: FitConfig, display: Display) -> None:
    """Fit the centroids and write them; run it again to resume.

    Raises an `InputError` or `CodecError` before anything is computed.
    """
    storage = Storage(config.storage, config.storage_patience)
    shards = list_shards(config.shards, storage)
    torch.manual_seed(config.seed)
    recipe = _recipe(config)
    root = storage.absolute(config.output)
    stream = SampleStream(
        shards,
        storage,
        config.seed,
        config.data.shuffle_buffer,
        limits=config.limits,
        audio_member=config.audio.member,
    )
    fit = KMeansFit(config, recipe, stream, root, display)
    describe_run(config, root, storage)
    count, width = recipe.centroids_NH.shape
    name = config.codec.name
    display.line(f"codec    {name}: {count} centroids of {width} dimensions, on {fit.device}")
    display.line(f"shards   {len(shards)}")
    recipe.centroids_NH.copy_(fit.run())
    weights, sizes = join(root, "checkpoint.safetensors"), join(root, "config.json")
    storage.put(sizes, json.dumps(recipe.fitted_config(), indent=1).encode())
    facts = {"codec": name, "frames": fit.frames}
    put_weights(weights, recipe.weights_for_inference(), facts, storage)
    display.done(f"{weights} and {sizes}; train the codec with both", [weights, sizes], storage)


def _recipe(config: FitConfig) -> CentroidRecipe:
    codec = config.codec
    recipe = load_recipe(
        codec.name, checkpoint=codec.checkpoint, config=codec.config, **codec.options
    )
    if not isinstance(recipe, CentroidRecipe):
        raise InputError(f"{codec.name} has no codebook of k-means centroids; HASRD has")
    if bool(recipe.centroids_NH.any()):
        raise InputError(
            f"{codec.checkpoint} holds centroids already, and the weights trained with them do not "
            "fit new ones; set codec.checkpoint to untrained"
        )
    recipe.fitted_config()
    return recipe
