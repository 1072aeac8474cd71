"""`chain`: a teacher distilled without gradients, block by block, each seeing those below steered.

At a block, with the blocks below already steered, what is added is what rows of the bare chat tell
of their difference from the prompted chat's (`regression`). At the model's last block it is fitted
to the prediction instead, by the slopes of KL(prompted || steered): they are known there, and need
no pass through the model (`prediction`). `chain` goes from block to block.

Source: this project; what was tried is in benchmark/EXPERIMENTS.md.
"""
