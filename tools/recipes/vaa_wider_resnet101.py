"""VAA on WIDER-Attribute, ResNet-101, as in the supplement.

Command    python tools/train_wider.py --data-dir WIDER --base-params resnet101_v1-d988c13d.params
Hardware   paper: one GTX 1080 Ti; here: not run (the data and ImageNet weights are not available)
Hours      not measured
Paper      86.4 mAP on the test split (as quoted by later papers); its ResNet-101 alone 83.7
Ours       not run
Deviates   ImageNet mean and std, which Gluon's weights were trained with, instead of the
           repository's 104/117/123 without std; evaluation on the centre crop as in the repository;
           phase1_epochs, epochs and gamma are assumptions (docs/vaa.md)
"""

method = "vaa"
model = "vaa_resnet101_wider"
dataset = "auto"
unspecified = "negative"
input_size = 224
resize = 256
crop_min = 128
crop_max = 224
mirror = True
eval_crop = 224
epochs = 250
batch_size = 32
optimizer = "sgd"
lr = 1e-3
momentum = 0.9
wd = 5e-4
schedule = "plateau"
lr_factor = 0.1
lr_patience = 10
lr_min = 1e-5
options = {
    "phase1_epochs": 5,
    "gamma": 2.0,
    "weighting": "prior",
    "history_length": 5,
    "history_start": 2,
    "history_weights": 5,
}
