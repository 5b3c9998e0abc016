"""A small VAA on the synthetic pedestrians, from scratch on a CPU; the demo's recipe.

Command    python tools/train_wider.py --recipe vaa_synthetic_resnet18 --data-dir SYNTHETIC
Hardware   2 CPU cores
Hours      see docs/results.md
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   no pre-trained backbone, so phase primary makes one first; Adam, cosine schedule; half
           the paper's pixel sizes, so the taps are one stage earlier; chosen on validation data
"""

method = "vaa"
model = "vaa_resnet18_w16_synthetic"
# Maps of 14 x 14 and 7 x 7, as the paper's taps have at 224 pixels.
model_options = {"taps": ["stage2_activation1", "stage3_activation1"]}
unspecified = "masked"
input_size = 112
resize = 128
crop_min = 96
crop_max = 124
eval_crop = 112
epochs = 80
batch_size = 32
lr = 0.002
optimizer = "adam"
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
options = {
    "phase0_epochs": 32,
    "phase1_epochs": 3,
}
