"""VAA on WIDER-Attribute with the nets and settings of the authors' repository.

The repository is not the paper's model (its author says so): three taps, wider heads, batch 24,
learning rate 1e-4, input minus 104/117/123 without scaling. Its losses are set here as they were
meant; in the repository itself they fall back to plain cross-entropy.

Command    python tools/train_wider.py --recipe vaa_wider_resnet101_released --data-dir WIDER
               --base-params FILE
Hardware   not run
Hours      not measured
Paper      no number belongs to this variant
Ours       not run
Deviates   see docs/vaa.md
"""

method = "vaa"
model = "vaa_resnet101_released_wider"
mean = (104.0, 117.0, 123.0)
std = (1.0, 1.0, 1.0)
epochs = 250
batch_size = 24
lr = 1e-4
wd = 5e-4
schedule = "plateau"
options = {"phase1_epochs": 5, "gamma": 2.0, "weighting": "released"}
