"""A small SE net with DREAL on synthetic people with many attributes, on a CPU.

Command    python tools/prepare_data.py synthetic --out PEOPLE
           python tools/train.py --recipe dreal_synthetic_resnet18 --data-dir PEOPLE --save-dir RUN
Baseline   the same with method=baseline
Ablation   stages=conv2_x, stages=conv3_x, stages=conv4_x or stages=conv5_x behind the command
Hardware   2 CPU cores
Hours      see docs/results.md
Paper      none: neither this net nor this data is the paper's, which has one class per image
Ours       see docs/results.md
Deviates   the reward for several labels is our extension (docs/dreal.md); a ResNet-18 of a quarter
           of the width at 112 pixels; Adam, cosine schedule; chosen on validation data
"""

method = "dreal"
model = "resnet18_w16_synthetic"
model_options = {"attention": "se"}
unspecified = "masked"
input_size = 112
resize = 128
crop_min = 96
crop_max = 124
eval_crop = 112
epochs = 20
batch_size = 32
optimizer = "adam"
lr = 0.002
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
