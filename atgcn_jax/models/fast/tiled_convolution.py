"""3x3 convolutions on a CPU as batches of matrix products over tiles: minimal filtering.

On CPUs, XLA computes the gradient of a kernel much more slowly than the forward pass. Here a 4x4
tile of the output needs 36 products of a 6x6 tile of the input with the kernel at 36 points,
instead of 4 · 4 · 9 products. The gradients do the same. This takes a quarter of the
multiplications, all in 36 products of matrices [tiles, channels in] and [channels in, channels
out].

Source:
  Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, Fast Algorithms for
  Convolutional Neural Networks, CVPR 2016, F(4x4, 3x3).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
TILE = 4  # rows and columns of a tile of the output
REACH = TILE + 2  # rows and columns of a tile of the input, and of the points
POINTS = REACH * REACH


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return the transforms in one dimension.

  A polynomial of degree 5 is determined by its values at five points and its leading coefficient.
  With the points 0, ±2/3, ±3/2 the error of float32 outputs is about four times that of direct
  sums.

  Returns:
    The transforms from input to points [6, 6], from kernel to points [6, 3], and from points to
    output [4, 6].
  """
  points = np.array([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2])

  def values(terms):
    return np.vstack([np.vander(points, terms, increasing=True), np.eye(terms)[-1]])

  input_to_points = np.linalg.inv(values(REACH)).T
  input_to_points[np.abs(input_to_points) < 1e-12] = 0.0
  return input_to_points, values(3), values(TILE).T


_INPUT, _KERNEL, _OUTPUT = _transforms()
_KERNEL_2D, _OUTPUT_2D = np.kron(_KERNEL, _KERNEL), np.kron(_OUTPUT, _OUTPUT)


def kernel_to_points(kernel_3x3xCxD: Array) -> Array:
  """Return a kernel at the 36 points, [36, C, D]."""
  to_points = jnp.asarray(_KERNEL_2D, kernel_3x3xCxD.dtype)
  return (to_points @ kernel_3x3xCxD.reshape(9, -1)).reshape(-1, *kernel_3x3xCxD.shape[2:])


def points_to_kernel(gradient_PxCxD: Array) -> Array:
  """Return the gradient of a kernel [3, 3, C, D]: the adjoint of `kernel_to_points`."""
  to_kernel = jnp.asarray(_KERNEL_2D.T, gradient_PxCxD.dtype)
  gradient = to_kernel @ gradient_PxCxD.reshape(POINTS, -1)
  return gradient.reshape(3, 3, *gradient_PxCxD.shape[1:])


def tiled_convolve(x_BxHxWxC: Array, kernel_PxCxD: Array) -> Array:
  """Return the zero-padded convolution [B, H, W, D] with a kernel at the points."""
  products = jax.lax.dot_general(_to_tiles(x_BxHxWxC), kernel_PxCxD, (((2,), (1,)), ((0,), (0,))))
  return _from_tiles(products, x_BxHxWxC.shape[:3])


def kernel_gradient(x_BxHxWxC: Array, dy_BxHxWxD: Array) -> Array:
  """Return the gradient of the kernel at the points, [36, C, D], from that of the convolution."""
  tiles, gradient = _to_tiles(x_BxHxWxC), _gradient_to_tiles(dy_BxHxWxD)
  return jax.lax.dot_general(tiles, gradient, (((1,), (1,)), ((0,), (0,))))


def mirrored(kernel_3x3xCxD: Array) -> Array:
  """Return the kernel [3, 3, D, C] whose convolution is the gradient of the input."""
  return kernel_3x3xCxD[::-1, ::-1].swapaxes(2, 3)


def count(height: int, width: int) -> int:
  """Return the number of tiles of an image of this size."""
  return -(-height // TILE) * -(-width // TILE)


def _to_tiles(x_BxHxWxC: Array) -> Array:
  """Return the input at the points, [36, B * tiles, C]."""
  B, H, W, C = x_BxHxWxC.shape
  rows, columns = -(-H // TILE), -(-W // TILE)
  # Input row `TILE * t + i - 1` is row i of tile t. The array is transposed so that row i of all
  # tiles is contiguous in memory. With zero rows above and below, each of the following slices is
  # one block.
  x = jnp.pad(
    x_BxHxWxC,
    ((0, 0), (1, TILE * (rows + 1) - 1 - H), (1, TILE * (columns + 1) - 1 - W), (0, 0)),
  )
  x = x.reshape(B, rows + 1, TILE, columns + 1, TILE, C).transpose(2, 4, 0, 1, 3, 5)
  # The barriers keep XLA from recomputing the inputs for each point.
  x = jax.lax.optimization_barrier(x)
  down = [x[i % TILE, :, :, i // TILE : i // TILE + rows] for i in range(REACH)]
  x = jnp.stack(_combinations(_INPUT, down))
  across = [x[:, i % TILE, :, :, i // TILE : i // TILE + columns] for i in range(REACH)]
  x = jnp.stack(_combinations(_INPUT, across), axis=1)
  return jax.lax.optimization_barrier(x.reshape(POINTS, -1, C))


def _combinations(matrix: np.ndarray, parts: list[Array]) -> list[Array]:
  """Return the weighted sum of the parts for each row of `matrix`; zero weights are skipped."""
  return [sum(float(m) * part for m, part in zip(row, parts) if m) for row in matrix]  # type: ignore[misc]


def _from_tiles(products_PxTxD: Array, shape: tuple[int, ...]) -> Array:
  """Return the output [B, H, W, D] from the products at the points."""
  B, H, W = shape
  rows, columns = -(-H // TILE), -(-W // TILE)
  to_output = jnp.asarray(_OUTPUT_2D, products_PxTxD.dtype)
  y = to_output @ products_PxTxD.reshape(POINTS, -1)
  y = y.reshape(TILE, TILE, B, rows, columns, -1).transpose(2, 3, 0, 4, 1, 5)
  return jax.lax.optimization_barrier(y.reshape(B, TILE * rows, TILE * columns, -1)[:, :H, :W])


def _gradient_to_tiles(dy_BxHxWxD: Array) -> Array:
  """Return the adjoint of `_from_tiles`, [36, B * tiles, D]."""
  B, H, W, D = dy_BxHxWxD.shape
  rows, columns = -(-H // TILE), -(-W // TILE)
  dy = jnp.pad(dy_BxHxWxD, ((0, 0), (0, TILE * rows - H), (0, TILE * columns - W), (0, 0)))
  dy = dy.reshape(B, rows, TILE, columns, TILE, D).transpose(2, 4, 0, 1, 3, 5)
  dy = jax.lax.optimization_barrier(dy.reshape(TILE * TILE, -1))
  return (jnp.asarray(_OUTPUT_2D.T, dy.dtype) @ dy).reshape(POINTS, -1, D)
