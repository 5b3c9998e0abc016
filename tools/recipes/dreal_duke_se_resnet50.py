"""DREAL for person re-identification on DukeMTMC-reID: SE-ResNet-50, softmax and triplet loss.

Command    python tools/train.py --recipe dreal_duke_se_resnet50 --data-dir DUKE --save-dir RUN
               --base-params SE_RESNET50.params
Hardware   not run: the data and ImageNet weights are not available here
Hours      not run
Paper      DREAL (ECCV 2020) evaluates on re-identification data; its numbers are not known to us
Ours       not run
Deviates   nothing of the paper's re-identification settings is known to us: reward, critic, losses,
           margin, sizes, batches and schedule are assumptions (docs/reid.md). The baseline is the
           same command with method=reid.
           All 702 training identities are trained on and the last epoch is kept, as published
           results are made; splits=train,val,test keep=best holds a tenth of them out.
           Duke University withdrew the DukeMTMC pictures in 2019.
"""

method = "dreal_reid"
model = "reid_resnet50_duke"
model_options = {"attention": "se"}
dataset = "reid_duke"
splits = ("trainval", "val", "test")
input_size = 256
resize = 288
crop_min = 256
crop_max = 256
eval_crop = 288
mirror = True
iterations_per_epoch = 200
epochs = 120
batch_size = 64
score = "mAP"
keep = "last"
optimizer = "adam"
lr = 3.5e-4
wd = 5e-4
schedule = "step"
lr_factor = 0.1
lr_epochs = (40, 70)
lr_min = 0.0
warmup_epochs = 10
log_interval = 100
options = {
    "images_per_identity": 4,
    "margin": 0.3,
    "soft_margin": False,
    "softmax_weight": 1.0,
    "triplet_weight": 1.0,
    "erase": 0.0,
}
