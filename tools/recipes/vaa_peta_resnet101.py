"""VAA on PETA, ResNet-101, as in the supplement.

Command    python tools/train.py --recipe vaa_peta_resnet101 --data-dir PETA --save-dir RUN
               --base-params resnet101_v1-d988c13d.params
Hardware   paper: one GTX 1080 Ti; here: not run (the data and ImageNet weights are not available)
Hours      not measured
Paper      84.59 mA, 78.56 accuracy, 86.79 precision, 86.12 recall, 86.46 F1 (as quoted by later
           papers)
Ours       not run
Deviates   focal loss from the start, where the author advises cost-sensitive cross-entropy
           first; ImageNet mean and std; phase1_epochs, epochs, gamma and the plateau's score (mA)
           are assumptions (docs/vaa.md)
"""

method = "vaa"
model = "vaa_resnet101"
dataset = "auto"
unspecified = "negative"
input_size = 224
resize = 256
crop_min = 160
crop_max = 224
mirror = True
eval_crop = 224
epochs = 60
batch_size = 32
score = "mA"
optimizer = "adam"
lr = 1e-4
wd = 5e-4
schedule = "plateau"
lr_factor = 0.1
lr_patience = 8
lr_min = 1e-6
options = {
    "phase1_epochs": 5,
    "gamma": 2.0,
    "weighting": "prior",
    "history_length": 5,
    "history_start": 2,
    "history_weights": 5,
}
