"""Training step and evaluation step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from atgcn_jax.audio.quantisation import RANGE_DB, dequantise
from atgcn_jax.models.layers import Placement
from atgcn_jax.training import augment, sharding
from atgcn_jax.training.losses import Loss, loss_of
from atgcn_jax.training.state import TrainState

Array = jax.Array
PLAIN = loss_of({})  # binary cross-entropy


class Normaliser(NamedTuple):
  """Mean and standard deviation of each band of the training clips, float32[F] in dB.

  `uint8_range` is the range of stored uint8 values (`Frontend.uint8_range`).
  """

  mean: Any
  deviation: Any
  uint8_range: float = RANGE_DB


def normalised_log_mel(batch: dict[str, Array], normaliser: Normaliser) -> Array:
  """Return the normalised log-mels float32[B, T, F] of a batch.

  Args:
    batch: `log_mel` [B, T, F]. Floating-point values are in dB. uint8 values 0 … 255 span the
      `uint8_range` of the normaliser below `peak_db` [B].
    normaliser: Mean and standard deviation of each band.
  """
  log_mel = batch["log_mel"].astype(jnp.float32)
  if batch["log_mel"].dtype == jnp.uint8:
    log_mel = dequantise(log_mel, batch["peak_db"], normaliser.uint8_range)
  return (log_mel - normaliser.mean) / normaliser.deviation


def loss_and_gradients(
  model: nn.Module,
  state: TrainState,
  batch: dict[str, Array],
  *,
  normaliser: Normaliser,
  augmentation: augment.Augmentation,
  seed: int,
  loss: Loss = PLAIN,
  placement: Placement | None = None,
  gather: Callable[[Any], Any] = lambda params: params,
) -> tuple[Array, Any, Any]:
  """Return the loss, the gradients and the new batch statistics of a step.

  The random numbers are a function of (seed, step).

  Args:
    model: The model.
    state: State before the step.
    batch: The batch.
    normaliser: Mean and standard deviation of each band.
    augmentation: Settings of mixup and SpecAugment.
    seed: Seed of the run.
    loss: Function from logits, labels and label vectors to the loss.
    placement: Placement of the batch. Defaults to all devices.
    gather: Function from the stored parameters to the parameters that the model uses.
  """
  augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
  before_norm, after_norm, labels = augment.augmentation_plan(
    augment_key, augmentation, batch["labels"].astype(jnp.float32)
  )
  log_mel = normalised_log_mel(batch, normaliser)
  if before_norm is not None:
    log_mel = before_norm(log_mel)

  def loss_at(params):
    if getattr(model, "freeze_encoder", False):  # Skip the gradient computation of the encoder.
      params = params | {"encoder": jax.lax.stop_gradient(params["encoder"])}
    features, updates = model.apply(
      {"params": gather(params), "batch_stats": state.batch_stats},
      log_mel,
      train=True,
      return_features=True,
      after_norm=after_norm,
      placement=placement,
      rngs={"dropout": dropout_key},
      mutable=["batch_stats"],
    )
    value = loss(features["logits"], labels, features.get("label_vectors"))
    return value, updates["batch_stats"]

  (value, batch_stats), gradients = jax.value_and_grad(loss_at, has_aux=True)(state.params)
  return value, gradients, batch_stats


def make_train_step(
  model: nn.Module,
  optimiser: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  normaliser: Normaliser,
  augmentation: augment.Augmentation,
  seed: int,
  loss: Loss = PLAIN,
  batch_of: Callable[[Any], dict[str, Array]] = lambda inputs: inputs,
  kept: Any = None,
) -> jax.stages.Wrapped:
  """Return the jitted step `(state, inputs, rate_factor) -> (state, {"loss", "gradient_norm"})`.

  The batch (`log_mel`, `labels`, and `peak_db` for uint8 log-mels) is split over the mesh. The
  buffers of the old state are donated to the new one. `rate_factor` multiplies the learning rate;
  the update of Adam is linear in it.

  Args:
    model: The model.
    optimiser: The optimiser.
    mesh: The devices.
    normaliser: Mean and standard deviation of each band.
    augmentation: Settings of mixup and SpecAugment.
    seed: Seed of the run.
    loss: Function from logits, labels and label vectors to the loss.
    batch_of: Function from `inputs` to the batch, called within the step. `inputs` are split over
      the mesh.
    kept: Shardings of the state between steps, from `sharding.where_kept`. By default the state is
      replicated.
  """
  placement = placement_on(mesh)
  whole, split = sharding.replicated(mesh), sharding.split(mesh)
  plain_loss = loss

  def loss_by_label(logits, labels, vectors):
    by_label = sharding.by_label(mesh)
    logits, labels = jax.lax.with_sharding_constraint((logits, labels), by_label)
    return plain_loss(logits, labels, vectors)

  if mesh.shape["label"] > 1:
    loss = loss_by_label

  def train_step(state, inputs, rate_factor):
    batch = batch_of(inputs)

    def gather(params):
      if kept is None:
        return params
      used = sharding.where_used(mesh, params, batch["labels"].shape[1])
      return jax.tree.map(_gathered, params, used, kept.params)

    value, gradients, batch_stats = loss_and_gradients(
      model,
      state,
      batch,
      normaliser=normaliser,
      augmentation=augmentation,
      seed=seed,
      loss=loss,
      placement=placement,
      gather=gather,
    )
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: u * jnp.asarray(rate_factor, u.dtype), updates)
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return new_state, {"loss": value, "gradient_norm": optax.tree.norm(gradients)}

  where = whole if kept is None else kept
  # XLA's default CPU schedule optimises speed. This one needs a sixth less memory at equal speed.
  frugal = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
  return jax.jit(
    train_step,
    in_shardings=(where, split, None),
    out_shardings=(where, whole),
    donate_argnums=0,
    compiler_options=frugal if placement.platform == "cpu" else None,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: Array, used: Any, kept: Any) -> Array:
  """Gather a stored parameter for use, and shard its gradient like the stored parameter.

  Without the custom gradient, each device would need the complete gradient. The compiler decides
  whether to use a reduce-scatter, or an all-reduce and a slice.
  """
  return jax.lax.with_sharding_constraint(x, used)


def _gathered_forward(x, used, kept):
  return _gathered(x, used, kept), None


def _gathered_backward(used, kept, _, cotangent):
  return (jax.lax.with_sharding_constraint(cotangent, kept),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def placement_on(mesh: jax.sharding.Mesh) -> Placement:
  """Return the placement of a batch that is split over a mesh."""
  return Placement(mesh.size, mesh.devices.flat[0].platform)


def make_score_step(
  model: nn.Module, mesh: jax.sharding.Mesh, *, normaliser: Normaliser
) -> Callable[[dict[str, Any], dict[str, Array]], Array]:
  """Return the jitted function `(variables, batch) -> scores float32[B, K]`.

  Scores are sigmoids in (0, 1) (Eq. 3).
  """

  def score(variables, batch):
    logits: Any = model.apply(
      variables, normalised_log_mel(batch, normaliser), train=False, placement=placement_on(mesh)
    )
    return jax.nn.sigmoid(logits)

  whole, split = sharding.replicated(mesh), sharding.split(mesh)
  return jax.jit(score, in_shardings=(whole, split), out_shardings=split)
