"""Plain ResNet-101 with cross-entropy on WIDER-Attribute: the baseline of the VAA paper.

Command    python tools/train_wider.py --recipe baseline_wider_resnet101 --data-dir WIDER
               --base-params resnet101_v1-d988c13d.params
Hardware   paper: one GTX 1080 Ti; here: not run
Hours      not measured
Paper      83.7 mAP on the test split (as quoted by later papers)
Ours       not run
Deviates   as vaa_wider_resnet101
"""

method = "baseline"
model = "resnet101_wider"
epochs = 250
batch_size = 32
lr = 1e-3
wd = 5e-4
schedule = "plateau"
