"""What small nets on synthetic pedestrians share: half the paper's pixel sizes, Adam, a cosine."""

unspecified = "masked"
input_size = 112
resize = 128
crop_min = 96
crop_max = 124
eval_crop = 112
batch_size = 32
optimizer = "adam"
lr = 0.002
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
