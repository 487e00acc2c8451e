"""One color and one kind of line for each optimizer, in every plot of the project."""

import colorsys
import zlib

# Okabe and Ito's colors, which stay apart for color-blind readers, go to the optimizers that are drawn most.
COLORS = {
  'adabelief': '#0072B2',
  'adam': '#D55E00',
  'adamw': '#E69F00',
  'radam': '#CC79A7',
  'rmsprop': '#56B4E9',
  'sgd': '#009E73',
  'nadam': '#8C564B',
  'nadamw': '#5E3C2E',
  'amsgrad': '#B03A3A',
  'adagrad': '#7F7F7F',
  'lion': '#6A3D9A',
  'ademamix': '#A6761D',
  'adopt': '#E7298A',
  'adan': '#66A61E',
  'laprop': '#00A5A5',
  'acprop': '#222222',
}


def color_of(name: str) -> str:
  """The color of an optimizer; a peer `optax:NAME` has that of NAME.

  A name that is not in the palette gets a hue of its own from its letters, so it is the same in every plot.
  """
  own = name.rpartition(':')[2].rpartition('.')[2].lower()
  if own in COLORS:
    return COLORS[own]
  hue = zlib.crc32(own.encode()) / 2**32
  return '#{:02X}{:02X}{:02X}'.format(*(round(255 * x) for x in colorsys.hls_to_rgb(hue, 0.4, 0.65)))


def line_of(name: str) -> str:
  """The kind of line: that of a peer is dashed."""
  return '--' if ':' in name else '-'
