"""A preset that is fitted in a second: `sad`, a direction between two kinds of text."""

SAD_PRESET = """\
schema: steerplug/preset-v1
name: sad
contrast:
  positive: ["I feel so sad and I am crying", "What a sad terrible day of tears"]
  negative: ["I feel so happy and I am laughing", "What a happy wonderful day of joy"]
fit: {method: mean, layers: [14], coefficient: 1.0}
"""
