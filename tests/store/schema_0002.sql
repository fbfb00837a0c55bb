BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE autotl_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT autotl_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "autotl_alembic_version" VALUES('0002');
CREATE TABLE autotl_epoch (
	study VARCHAR(512) NOT NULL, 
	number INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	loss DOUBLE, 
	score DOUBLE, 
	seconds DOUBLE NOT NULL, 
	PRIMARY KEY (study, number, epoch)
);
INSERT INTO "autotl_epoch" VALUES('photos',0,1,1.10847808375503076305e+00,3.33333333333333314829e-01,2.15160432999709883006e-01);
INSERT INTO "autotl_epoch" VALUES('photos',1,1,1.11290486653645825931e+00,3.33333333333333314829e-01,9.35578979997444548644e-02);
INSERT INTO "autotl_epoch" VALUES('photos',2,1,1.10051611698035034514e+00,3.33333333333333314829e-01,9.15200244000061502447e-01);
INSERT INTO "autotl_epoch" VALUES('photos',0,2,1.10446028275923291417e+00,3.33333333333333314829e-01,1.24554594000073848292e-01);
INSERT INTO "autotl_epoch" VALUES('photos',1,2,1.11050264763109618471e+00,3.33333333333333314829e-01,9.17459730012524232733e-02);
INSERT INTO "autotl_epoch" VALUES('photos',2,2,1.10002922289299243097e+00,0.4,1.10090203399977326625e+00);
INSERT INTO "autotl_epoch" VALUES('photos',0,3,1.10620857007575756902e+00,3.33333333333333314829e-01,2.53353540006173716392e-02);
INSERT INTO "autotl_epoch" VALUES('photos',1,3,1.11252120046904590111e+00,3.33333333333333314829e-01,1.13374089996796101331e-02);
INSERT INTO "autotl_epoch" VALUES('photos',2,3,1.09920409231474902611e+00,0.4,5.12718420013698050752e-02);
INSERT INTO "autotl_epoch" VALUES('photos',3,1,1.10079852017489354665e+00,3.33333333333333314829e-01,4.98118819996307138353e-02);
INSERT INTO "autotl_epoch" VALUES('photos',3,2,1.09966150919596361568e+00,3.33333333333333314829e-01,1.63861550599995098309e+00);
INSERT INTO "autotl_epoch" VALUES('photos',3,3,1.09799991954456666043e+00,3.33333333333333314829e-01,1.64601601899994420818e+00);
INSERT INTO "autotl_epoch" VALUES('photos',4,1,1.0945859966856059664e+00,3.33333333333333314829e-01,9.40785042999777942895e-01);
INSERT INTO "autotl_epoch" VALUES('photos',4,2,9.02726780284534791043e-01,1.0,1.37681138000061764614e-01);
INSERT INTO "autotl_epoch" VALUES('photos',4,3,8.60073262994939580217e-01,1.0,1.6194392500028698123e-01);
INSERT INTO "autotl_epoch" VALUES('photos',5,1,1.11229960123697924068e+00,3.33333333333333314829e-01,0.0301062980001916);
INSERT INTO "autotl_epoch" VALUES('photos',5,2,1.12540805701053514553e+00,3.33333333333333314829e-01,1.07250867000402649864e-01);
INSERT INTO "autotl_epoch" VALUES('photos',5,3,1.108669281005859375e+00,3.33333333333333314829e-01,1.3799803799975052243e-01);
INSERT INTO "autotl_epoch" VALUES('photos',6,1,1.12106346361564868097e+00,3.33333333333333314829e-01,2.48667875299997831461e+00);
INSERT INTO "autotl_epoch" VALUES('photos',6,2,1.07380052046342333582e+00,3.33333333333333314829e-01,2.34621561899984953925e+00);
INSERT INTO "autotl_epoch" VALUES('photos',6,3,1.06719404278379492723e+00,0.8,2.68685764000110793858e-01);
INSERT INTO "autotl_epoch" VALUES('photos',7,1,1.09645242402047826679e+00,3.33333333333333314829e-01,1.31804839998039824422e-02);
INSERT INTO "autotl_epoch" VALUES('photos',7,2,1.09521842725349194402e+00,3.33333333333333314829e-01,2.86726650001583038829e-02);
INSERT INTO "autotl_epoch" VALUES('photos',7,3,1.09161191998106055223e+00,3.33333333333333314829e-01,2.75832359998275933321e-02);
INSERT INTO "autotl_epoch" VALUES('photos',8,1,1.11024868127071485446e+00,3.33333333333333314829e-01,1.17387569998754770494e-02);
INSERT INTO "autotl_epoch" VALUES('photos',8,2,1.10648334387576952053e+00,3.33333333333333314829e-01,2.69300979998661205172e-02);
INSERT INTO "autotl_epoch" VALUES('photos',8,3,1.09825746940844,5.33333333333333325931e-01,2.54099349999705736991e-02);
INSERT INTO "autotl_epoch" VALUES('photos',9,1,1.10497607606830028359e+00,3.33333333333333314829e-01,3.61529159999918192625e-02);
INSERT INTO "autotl_epoch" VALUES('photos',9,2,1.09522732821377832834e+00,3.33333333333333314829e-01,0.0335350769996694);
INSERT INTO "autotl_epoch" VALUES('photos',9,3,1.09989328095407201679e+00,3.33333333333333314829e-01,2.33549649997257802169e-02);
INSERT INTO "autotl_epoch" VALUES('photos',10,1,1.11210458928888500373e+00,3.33333333333333314829e-01,2.00433539998812193516e-02);
INSERT INTO "autotl_epoch" VALUES('photos',10,2,8.77421176794803470144e-01,1.0,1.69297810002717596944e-02);
INSERT INTO "autotl_epoch" VALUES('photos',10,3,0.796763969190193,1.0,1.70220829995741951279e-02);
INSERT INTO "autotl_epoch" VALUES('photos',11,1,1.13133424701112694776e+00,3.33333333333333314829e-01,2.45343930000672116875e-02);
INSERT INTO "autotl_epoch" VALUES('photos',11,2,1.01148963697028881902e+00,0.6,1.95106410001244512386e-02);
INSERT INTO "autotl_epoch" VALUES('photos',11,3,9.79580387924656736942e-01,6.66666666666666629659e-01,2.17964509997727873269e-02);
CREATE TABLE autotl_final (
	study VARCHAR(512) NOT NULL, 
	candidate VARCHAR(64) NOT NULL, 
	run INTEGER NOT NULL, 
	trial INTEGER, 
	score DOUBLE, 
	seconds DOUBLE NOT NULL, 
	facts JSON NOT NULL, 
	PRIMARY KEY (study, candidate, run)
);
INSERT INTO "autotl_final" VALUES('photos','4',0,4,1.0,1.03307807999954093247e-01,'{"ms_per_item": 0.10661625003649533, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','0',0,0,6.66666666666666629659e-01,0.057708238000032,'{"ms_per_item": 0.08538912499034268, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 5, 0], [5, 0, 0]]}');
INSERT INTO "autotl_final" VALUES('photos','10',0,10,1.0,6.41230330002144910395e-02,'{"ms_per_item": 0.05977887502695012, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','6',0,6,4.66666666666666674068e-01,1.34441940999749931506e-01,'{"ms_per_item": 0.07052637499782577, "sees": [32, "bicubic"], "confusion": [[2, 3, 0], [0, 5, 0], [0, 5, 0]]}');
INSERT INTO "autotl_final" VALUES('photos','soup',0,NULL,1.0,8.33003500019913190044e-03,'{"members": ["4", "10"]}');
INSERT INTO "autotl_final" VALUES('photos','4',1,4,1.0,3.56278463999842642806e-01,'{"ms_per_item": 0.10661625003649533, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','0',1,0,3.33333333333333314829e-01,0.0474223979999806,'{"ms_per_item": 0.08538912499034268, "sees": [32, "bicubic"], "confusion": [[0, 0, 5], [0, 0, 5], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','10',1,10,1.0,5.43237289998614869546e-02,'{"ms_per_item": 0.05977887502695012, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','6',1,6,0.6,1.13417429000037373043e-01,'{"ms_per_item": 0.07052637499782577, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 0, 5], [1, 0, 4]]}');
INSERT INTO "autotl_final" VALUES('photos','soup',1,NULL,1.0,5.52917499999239225871e-03,'{"members": ["4", "10"]}');
INSERT INTO "autotl_final" VALUES('photos','4',2,4,1.0,9.21237160000600852072e-02,'{"ms_per_item": 0.10661625003649533, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','0',2,0,3.33333333333333314829e-01,3.46203599997352284844e-02,'{"ms_per_item": 0.08538912499034268, "sees": [32, "bicubic"], "confusion": [[0, 5, 0], [0, 5, 0], [0, 5, 0]]}');
INSERT INTO "autotl_final" VALUES('photos','10',2,10,1.0,5.65257230000497656874e-02,'{"ms_per_item": 0.05977887502695012, "sees": [32, "bicubic"], "confusion": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','6',2,6,3.33333333333333314829e-01,1.00955204000001685926e-01,'{"ms_per_item": 0.07052637499782577, "sees": [32, "bicubic"], "confusion": [[0, 0, 5], [0, 0, 5], [0, 0, 5]]}');
INSERT INTO "autotl_final" VALUES('photos','soup',2,NULL,1.0,5.78255600021293503232e-03,'{"members": ["4", "10"]}');
CREATE TABLE autotl_study (
	name VARCHAR(512) NOT NULL, 
	facts JSON NOT NULL, 
	created DATETIME NOT NULL, 
	updated DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "autotl_study" VALUES('photos','{"study": "photos", "seed": 0, "metric": "accuracy", "prefer": "accuracy", "direction": "maximize", "data": {"source": "photos", "fingerprint": "6bac05e820f9469f2c32031ffd45723cbb01486d4116472af177ced96bcb19d3", "classes": ["blue", "green", "red"], "train": 33, "validation": 15, "test": 12, "skipped": 1, "duplicates_across_splits": 0}, "validation_n": 15, "budget_seconds": null, "first_budget": null, "device": "cpu, float32", "versions": {"python": "3.11.7", "autotl": "0.1.0", "torch": "2.14.1", "torchvision": "0.29.1", "timm": "1.0.31", "optuna": "5.0.0", "scikit-learn": "1.9.1"}, "issues": [{"name": "red/broken.png", "problem": "not a picture that Pillow can read", "action": "left out"}], "left_out": [{"kind": "backbone", "name": "large", "reason": "too slow"}], "latency": {"tiny": 1.5}, "sampler": "TPESampler(multivariate=True, group=True, gamma=0.25, prior_weight=8)", "pruner": "WorstTenthPruner(kind=''freeze'', worst=0.1, fewest=3)", "space": {"backbone": ["tiny"], "freeze": ["full", "linear_probe"], "freeze.full.lr": "3e-05 to 0.003 (log)", "freeze.linear_probe.lr": "0.0003 to 0.03 (log)", "head": ["linear", "mlp"], "head.linear.dropout": "0.0 to 0.5", "head.mlp.depth": "1 | 2", "head.mlp.width": "64 to 1024 (log)", "head.mlp.second": "64 to 1024 (log)", "head.mlp.dropout": "0.0 to 0.5", "augment": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"], "augment.cutmix.alpha": "0.1 to 1.0 (log)", "augment.cutmix.smallest": "0.1 to 0.9 in steps of 0.2", "augment.cutmix.flip": "False | True", "augment.flip_crop.smallest": "0.1 to 0.9 in steps of 0.2", "augment.flip_crop.flip": "False | True", "augment.mixup.alpha": "0.1 to 1.0 (log)", "augment.mixup.smallest": "0.1 to 0.9 in steps of 0.2", "augment.mixup.flip": "False | True", "augment.rand_augment.operations": "1 to 3", "augment.rand_augment.magnitude": "1 to 20", "augment.rand_augment.flip": "False | True", "augment.random_erasing.probability": "0.1 to 1.0", "augment.random_erasing.area": "0.05 to 0.5", "augment.random_erasing.fill": "noise | mean", "augment.random_erasing.smallest": "0.1 to 0.9 in steps of 0.2", "augment.random_erasing.flip": "False | True", "augment.trivial_augment.flip": "False | True", "optimizer": ["adamw", "lion", "sgd"], "optimizer.adamw.weight_decay": "0.0001 to 0.3 (log)", "optimizer.adamw.warmup": "0.0 to 0.3", "optimizer.lion.scale": "0.05 to 1.0 (log)", "optimizer.lion.weight_decay": "0.001 to 3.0 (log)", "optimizer.lion.warmup": "0.0 to 0.3", "optimizer.sgd.scale": "3.0 to 100.0 (log)", "optimizer.sgd.momentum": "0.8 to 0.98", "optimizer.sgd.weight_decay": "1e-06 to 0.01 (log)", "optimizer.sgd.warmup": "0.0 to 0.3"}, "imbalance": 1.0, "state": "done", "process": ["vm", 14044], "kept": null, "identity": {"data": "6bac05e820f9469f2c32031ffd45723cbb01486d4116472af177ced96bcb19d3", "metric": "accuracy", "seed": 0, "epochs": 3, "batch_size": 8, "label_smoothing": 0.1, "ema": 0.0, "validation": null, "test": 0.2, "image_size": [], "precision": "None"}, "micro": {"tiny, 32 px": 16}, "measured": {}, "finals": {"runs": 3, "candidates": [{"name": "trial 4", "trial": 4, "role": "finalist", "config": {"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0026453916272095607}}, "head": {"linear": {"dropout": 0.10804474779018819}}, "augment": {"cutmix": {"alpha": 0.9624998647979014, "smallest": 0.1, "flip": false}}, "optimizer": {"sgd": {"scale": 13.845852892822709, "momentum": 0.9708159152206812, "weight_decay": 0.0013970885834033993, "warmup": 0.2598867895745095}}}, "scores": [1.0, 1.0, 1.0], "seconds": 0.5517099879998568, "parameters": 1491, "ms_per_item": 0.10661625003649533, "mean": 1.0, "low": 0.9265005452631498, "high": 1.0, "difference": {"mean": 0.0, "low": -0.4540726012269852, "high": 0.4540726012269852}, "tied_with_best": true}, {"name": "trial 10", "trial": 10, "role": "finalist", "config": {"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.002221282162157634}}, "head": {"linear": {"dropout": 0.0050022313374933625}}, "augment": {"none": {}}, "optimizer": {"sgd": {"scale": 9.850286002243744, "momentum": 0.961737823674995, "weight_decay": 0.00022143239453884528, "warmup": 0.2738831171434445}}}, "scores": [1.0, 1.0, 1.0], "seconds": 0.17497248500012574, "parameters": 1491, "ms_per_item": 0.05977887502695012, "mean": 1.0, "low": 0.9265005452631498, "high": 1.0, "difference": {"mean": 0.0, "low": -0.4540726012269852, "high": 0.4540726012269852}, "tied_with_best": true}, {"name": "soup", "trial": null, "role": "soup", "config": null, "scores": [1.0, 1.0, 1.0], "seconds": 0.7266824729999826, "parameters": 1491, "ms_per_item": 0.10661625003649533, "members": {"trial 4": 0.5, "trial 10": 0.5}, "mean": 1.0, "low": 0.9265005452631498, "high": 1.0, "difference": {"mean": 0.0, "low": -0.4540726012269852, "high": 0.4540726012269852}, "tied_with_best": true}, {"name": "trial 6", "trial": 6, "role": "finalist", "config": {"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0013169809738202921}}, "head": {"mlp": {"depth": 1, "width": 204, "second": 128, "dropout": 0.16770392463666461}}, "augment": {"trivial_augment": {"flip": false}}, "optimizer": {"adamw": {"weight_decay": 0.03153470769157326, "warmup": 0.2406511687273426}}}, "scores": [0.4666666666666667, 0.6, 0.3333333333333333], "seconds": 0.348814573999789, "parameters": 5523, "ms_per_item": 0.07052637499782577, "mean": 0.4666666666666666, "low": 0.0, "high": 0.9758858263980006, "difference": {"mean": -0.5333333333333334, "low": -0.9874059345603186, "high": -0.07926073210634826}, "tied_with_best": false}, {"name": "trial 0", "trial": 0, "role": "linear_probe", "config": {"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.003}}, "head": {"linear": {"dropout": 0.1}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"adamw": {"weight_decay": 0.02, "warmup": 0.1}}}, "scores": [0.6666666666666666, 0.3333333333333333, 0.3333333333333333], "seconds": 0.13975099599974783, "parameters": 1491, "ms_per_item": 0.08538912499034268, "mean": 0.4444444444444444, "low": 0.0, "high": 1.0, "difference": {"mean": -0.5555555555555556, "low": -1.0096281567825407, "high": -0.10148295432857041}, "tied_with_best": false}], "winner": "trial 4", "cheapest_tied": "trial 10", "optimism": 0.0, "optimism_of": "trial 4", "unselected": 1.0, "prefer": "accuracy"}, "calibration": {"temperature": 0.05000021893286197, "ece_before": 0.47431074976921084, "ece_after": 0.015793576505449082, "n": 45, "bins": 15}, "doubtful": [{"name": "red/3.png", "truth": "red", "guess": "blue", "probability": 0.9, "thumbnail": "data:image/jpeg;base64,/9j/"}], "weights": {"backbone": "tiny", "origin": "file tiny_plugin.py sha256:193cec8bae51", "licence": "unknown"}, "model": {"winner": {"candidate": "trial 4", "members": null}, "trial": 4, "refitted": true, "found": {"finals": {"runs": 3, "candidates": [{"name": "trial 4", "trial": 4, "role": "finalist", "config": {"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0026453916272095607}}, "head": {"linear": {"dropout": 0.10804474779018819}}, "augment": {"cutmix": {"alpha": 0.9624998647979014, "smallest": 0.1, "flip": false}}, "optimizer": {"sgd": {"scale": 13.845852892822709, "momentum": 0.9708159152206812, "weight_decay": 0.0013970885834033993, "warmup": 0.2598867895745095}}}, "scores": [1.0, 1.0, 1.0], "seconds": 0.5517099879998568, "parameters": 1491, "ms_per_item": 0.10661625003649533, "mean": 1.0, "low": 0.9265005452631498, "high": 1.0, "difference": {"mean": 0.0, "low": -0.4540726012269852, "high": 0.4540726012269852}, "tied_with_best": true}, {"name": "trial 10", "trial": 10, "role": "finalist", "config": {"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.002221282162157634}}, "head": {"linear": {"dropout": 0.0050022313374933625}}, "augment": {"none": {}}, "optimizer": {"sgd": {"scale": 9.850286002243744, "momentum": 0.961737823674995, "weight_decay": 0.00022143239453884528, "warmup": 0.2738831171434445}}}, "scores": [1.0, 1.0, 1.0], "seconds": 0.17497248500012574, "parameters": 1491, "ms_per_item": 0.05977887502695012, "mean": 1.0, "low": 0.9265005452631498, "high": 1.0, "difference": {"mean": 0.0, "low": -0.4540726012269852, "high": 0.4540726012269852}, "tied_with_best": true}, {"name": "soup", "trial": null, "role": "soup", "config": null, "scores": [1.0, 1.0, 1.0], "seconds": 0.7266824729999826, "parameters": 1491, "ms_per_item": 0.10661625003649533, "members": {"trial 4": 0.5, "trial 10": 0.5}, "mean": 1.0, "low": 0.9265005452631498, "high": 1.0, "difference": {"mean": 0.0, "low": -0.4540726012269852, "high": 0.4540726012269852}, "tied_with_best": true}, {"name": "trial 6", "trial": 6, "role": "finalist", "config": {"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0013169809738202921}}, "head": {"mlp": {"depth": 1, "width": 204, "second": 128, "dropout": 0.16770392463666461}}, "augment": {"trivial_augment": {"flip": false}}, "optimizer": {"adamw": {"weight_decay": 0.03153470769157326, "warmup": 0.2406511687273426}}}, "scores": [0.4666666666666667, 0.6, 0.3333333333333333], "seconds": 0.348814573999789, "parameters": 5523, "ms_per_item": 0.07052637499782577, "mean": 0.4666666666666666, "low": 0.0, "high": 0.9758858263980006, "difference": {"mean": -0.5333333333333334, "low": -0.9874059345603186, "high": -0.07926073210634826}, "tied_with_best": false}, {"name": "trial 0", "trial": 0, "role": "linear_probe", "config": {"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.003}}, "head": {"linear": {"dropout": 0.1}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"adamw": {"weight_decay": 0.02, "warmup": 0.1}}}, "scores": [0.6666666666666666, 0.3333333333333333, 0.3333333333333333], "seconds": 0.13975099599974783, "parameters": 1491, "ms_per_item": 0.08538912499034268, "mean": 0.4444444444444444, "low": 0.0, "high": 1.0, "difference": {"mean": -0.5555555555555556, "low": -1.0096281567825407, "high": -0.10148295432857041}, "tied_with_best": false}], "winner": "trial 4", "cheapest_tied": "trial 10", "optimism": 0.0, "optimism_of": "trial 4", "unselected": 1.0, "prefer": "accuracy"}, "calibration": {"temperature": 0.05000021893286197, "ece_before": 0.47431074976921084, "ece_after": 0.015793576505449082, "n": 45, "bins": 15}, "doubtful": []}}, "openings": 1, "seconds": 26.60963444500021, "stages": {"check": 0.09680425699980333, "time": 4.929000169795472e-06, "pack": 0.045241490999160305, "search": 17.36136527000008, "finals": 1.881513334000374, "refit": 0.08662889500010351, "test": 0.04852609600038704}, "command": "autotl search photos", "linear_probes": [0], "default_trial": null, "annotated": {"study": "e0050adc46c4c4b6", "4/learning curve": "7daca00e9b9d2ab5", "4/confusion matrix": "ae8a78e8e499711b", "4": "ab049821278bead6", "10/learning curve": "7daca00e9b9d2ab5", "10/confusion matrix": "22d1540135b27544", "10": "0baffb4def95e6f5", "6/learning curve": "810fbe8ef6fa0f49", "6/confusion matrix": "347cbad9b8f31903", "6": "d434bd92262e632b", "11/learning curve": "47ab722c6ded6267", "11": "e549da23185d0fd1", "8/learning curve": "5ddabe68474f0728", "8": "be4c6e70d77acdb1", "2/learning curve": "c143e4aa89f6eb87", "2": "4d20f8d354229885", "0/learning curve": "c62b223d0b85232a", "0/confusion matrix": "23b4a406746327c1", "0": "3e4c1e5dceab33bc", "1/learning curve": "c62b223d0b85232a", "1": "78f26bf7c76120df", "5/learning curve": "c62b223d0b85232a", "5": "4147cbca0252f52c", "7/learning curve": "c62b223d0b85232a", "7": "72b57b67cc9d88c3", "3/learning curve": "c62b223d0b85232a", "3": "ce1cebcf2f0de1e2", "9/learning curve": "c62b223d0b85232a", "9": "ed058c46fc653af5"}}','2026-11-27 10:16:48.094285','2026-11-27 10:17:08.597624');
CREATE TABLE autotl_test (
	id INTEGER NOT NULL, 
	study VARCHAR(512) NOT NULL, 
	trial INTEGER NOT NULL, 
	opened DATETIME NOT NULL, 
	config JSON NOT NULL, 
	facts JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "autotl_test" VALUES(1,'photos',4,'2026-11-27 10:17:07.614481','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0026453916272095607}}, "head": {"linear": {"dropout": 0.10804474779018819}}, "augment": {"cutmix": {"alpha": 0.9624998647979014, "smallest": 0.1, "flip": false}}, "optimizer": {"sgd": {"scale": 13.845852892822709, "momentum": 0.9708159152206812, "weight_decay": 0.0013970885834033993, "warmup": 0.2598867895745095}}}','{"candidate": "trial 4", "members": null, "score": 1.0, "low": 0.7575059933447592, "high": 1.0, "n": 12, "ece": 1.4007091522216797e-06, "ms_per_item": 0.10409899997891141, "parameters": 1491, "learned_parameters": 1491, "refit_seconds": 0.09121902900005807, "refitted": true, "per_class": [{"class": "blue", "n": 4, "score": 1.0}, {"class": "green", "n": 4, "score": 1.0}, {"class": "red", "n": 4, "score": 1.0}], "confusion": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "mistakes": [{"name": "red/3.png", "truth": "red", "guess": "blue", "probability": 0.9, "thumbnail": "data:image/jpeg;base64,/9j/", "saliency": "data:image/jpeg;base64,/9j/"}]}');
CREATE TABLE autotl_trial (
	study VARCHAR(512) NOT NULL, 
	number INTEGER NOT NULL, 
	"end" VARCHAR(32) NOT NULL, 
	reason TEXT NOT NULL, 
	config JSON NOT NULL, 
	score DOUBLE, 
	epochs INTEGER NOT NULL, 
	parameters BIGINT, 
	learned_parameters BIGINT, 
	seconds DOUBLE NOT NULL, 
	started DATETIME NOT NULL, facts JSON, 
	PRIMARY KEY (study, number)
);
INSERT INTO "autotl_trial" VALUES('photos',0,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.003}}, "head": {"linear": {"dropout": 0.1}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"adamw": {"weight_decay": 0.02, "warmup": 0.1}}}',3.33333333333333314829e-01,3,1491,51,1.28094552333323,'2026-11-27 10:16:48.304936','{"views": 4, "recipe": "tiny \u00b7 linear_probe \u00b7 linear", "default": true, "probe": true, "logme": 1.0840573867289114}');
INSERT INTO "autotl_trial" VALUES('photos',1,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.00204722352812965}}, "head": {"linear": {"dropout": 0.36016224672107905}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"lion": {"scale": 0.06593337179563075, "weight_decay": 0.00444272406078843, "warmup": 0.10366821811291432}}}',3.33333333333333314829e-01,3,1491,51,1.28094552333323,'2026-11-27 10:16:48.488096','{"views": 4}');
INSERT INTO "autotl_trial" VALUES('photos',2,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.002234143471224922}}, "head": {"mlp": {"depth": 2, "width": 213, "second": 204, "dropout": 0.16516741050193706}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"lion": {"scale": 0.11120397025579397, "weight_decay": 0.14446334013174142, "warmup": 0.15874262828311173}}}',0.4,3,1491,47892,1.28094552333323,'2026-11-27 10:16:48.636590','{"views": 4}');
INSERT INTO "autotl_trial" VALUES('photos',3,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.001145330253335371}}, "head": {"mlp": {"depth": 1, "width": 113, "second": 128, "dropout": 0.02573360165041494}}, "augment": {"random_erasing": {"probability": 0.12158369413944883, "area": 0.3014843395958969, "fill": "mean", "smallest": 0.3, "flip": false}}, "optimizer": {"sgd": {"scale": 8.783665053189452, "momentum": 0.8399524191077927, "weight_decay": 3.563567834281794e-05, "warmup": 0.2809150949581291}}}',3.33333333333333314829e-01,3,3703,2263,3.68408337599976221099e+00,'2026-11-27 10:16:52.366347','{"views": 4, "seconds_again": 3.334443406999526}');
INSERT INTO "autotl_trial" VALUES('photos',4,'complete','','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0026453916272095607}}, "head": {"linear": {"dropout": 0.10804474779018819}}, "augment": {"cutmix": {"alpha": 0.9624998647979014, "smallest": 0.1, "flip": false}}, "optimizer": {"sgd": {"scale": 13.845852892822709, "momentum": 0.9708159152206812, "weight_decay": 0.0013970885834033993, "warmup": 0.2598867895745095}}}',1.0,3,1491,1491,1.71391252400007942924e+00,'2026-11-27 10:16:56.138389','{"views": 4, "seconds_again": 1.2404101060001267}');
INSERT INTO "autotl_trial" VALUES('photos',5,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.000777247914453813}}, "head": {"linear": {"dropout": 0.30587193145132285}}, "augment": {"cutmix": {"alpha": 0.14398255227198897, "smallest": 0.9, "flip": true}}, "optimizer": {"lion": {"scale": 0.30164482877336163, "weight_decay": 0.008400116388253099, "warmup": 0.08540576419240914}}}',3.33333333333333314829e-01,3,1491,51,6.26654965999932755948e-01,'2026-11-27 10:16:58.046266','{"views": 4, "seconds_again": 0.2753552030003448}');
INSERT INTO "autotl_trial" VALUES('photos',6,'complete','','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0013169809738202921}}, "head": {"mlp": {"depth": 1, "width": 204, "second": 128, "dropout": 0.16770392463666461}}, "augment": {"trivial_augment": {"flip": false}}, "optimizer": {"adamw": {"weight_decay": 0.03153470769157326, "warmup": 0.2406511687273426}}}',0.8,3,5523,5523,5.61876322500029345974e+00,'2026-11-27 10:16:58.938514','{"views": 4, "seconds_again": 5.101580135999939}');
INSERT INTO "autotl_trial" VALUES('photos',7,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.00225912217020814}}, "head": {"mlp": {"depth": 1, "width": 78, "second": 128, "dropout": 0.13421949005093559}}, "augment": {"trivial_augment": {"flip": true}}, "optimizer": {"adamw": {"weight_decay": 0.20124054305942615, "warmup": 0.06909086370628943}}}',3.33333333333333314829e-01,3,3003,1563,1.66707027000029484042e-01,'2026-11-27 10:17:04.349848','{"views": 4, "seconds_again": 0.06943638499978988}');
INSERT INTO "autotl_trial" VALUES('photos',8,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.01642518747142352}}, "head": {"linear": {"dropout": 0.0056994021387149485}}, "augment": {"trivial_augment": {"flip": false}}, "optimizer": {"sgd": {"scale": 9.669825887500473, "momentum": 0.8393841909475691, "weight_decay": 1.8333000536503807e-06, "warmup": 0.2948611639660301}}}',5.33333333333333325931e-01,3,1491,51,1.63359235000370972556e-01,'2026-11-27 10:17:04.557874','{"views": 4, "seconds_again": 0.06407878999971217}');
INSERT INTO "autotl_trial" VALUES('photos',9,'complete','','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.002942170529279404}}, "head": {"mlp": {"depth": 2, "width": 127, "second": 80, "dropout": 0.17274932002520005}}, "augment": {"mixup": {"alpha": 0.4644072306445439, "smallest": 0.5, "flip": false}}, "optimizer": {"lion": {"scale": 0.8367976902693354, "weight_decay": 0.6233050385547254, "warmup": 0.29500777446729975}}}',3.33333333333333314829e-01,3,14082,12642,2.08131973000035941367e-01,'2026-11-27 10:17:04.769634','{"views": 4, "seconds_again": 0.093042957999387}');
INSERT INTO "autotl_trial" VALUES('photos',10,'complete','','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.002221282162157634}}, "head": {"linear": {"dropout": 0.0050022313374933625}}, "augment": {"none": {}}, "optimizer": {"sgd": {"scale": 9.850286002243744, "momentum": 0.961737823674995, "weight_decay": 0.00022143239453884528, "warmup": 0.2738831171434445}}}',1.0,3,1491,1491,2.32373630999973102007e-01,'2026-11-27 10:17:05.086756','{"views": 4, "seconds_again": 0.053995217999727174}');
INSERT INTO "autotl_trial" VALUES('photos',11,'complete','','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0022716838025082582}}, "head": {"linear": {"dropout": 0.1546131828396363}}, "augment": {"none": {}}, "optimizer": {"adamw": {"weight_decay": 0.004461322797001013, "warmup": 0.26258821191569126}}}',6.66666666666666629659e-01,3,1491,1491,2.75099666999722103355e-01,'2026-11-27 10:17:05.385300','{"views": 4, "seconds_again": 0.06584148499996445}');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'photos');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["accuracy"]');
INSERT INTO "study_system_attributes" VALUES(2,1,'dashboard:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(3,1,'dashboard:note_str:0','"## photos\n\nThe best is trial 4, tiny \u00b7 full \u00b7 linear \u00b7 cutmix \u00b7 sgd\\: accuracy 1\\.0000 \\(95 % interval 0\\.9265 to 1\\.0000\\), the mean of 3 runs, each with a seed and held\\-back pictures of its own\\.\n\nOn 12 test pictures that the search never saw\\: accuracy 1\\.0000 \\(95 % interval 0\\.7575 to 1\\.0000\\)\\.\n\n3 runs do not tell it from trial 10 and the soup\\: call it a tie; the cheapest of them is trial 10\\.\n\nBeside it, the linear probe 0\\.4444\\.\n\n### Finalists\n\n| candidate | accuracy | 95 % interval |  | recipe |\n| --- | --- | --- | --- | --- |\n| trial 4 | 1.0000 | 0.9265 to 1.0000 | winner | tiny \u00b7 full \u00b7 linear \u00b7 cutmix \u00b7 sgd |\n| trial 10 | 1.0000 | 0.9265 to 1.0000 | tied | tiny \u00b7 full \u00b7 linear \u00b7 none \u00b7 sgd |\n| soup | 1.0000 | 0.9265 to 1.0000 | tied |  |\n| trial 6 | 0.4667 | 0.0000 to 0.9759 |  | tiny \u00b7 full \u00b7 mlp \u00b7 trivial\\_augment \u00b7 adamw |\n| trial 0 | 0.4444 | 0.0000 to 1.0000 |  | tiny \u00b7 linear\\_probe \u00b7 linear \u00b7 flip\\_crop \u00b7 adamw |\n\n*Best Trial* on this page is the best score of one run. The winner here is that of the finals, which look at several.\n\nThe whole report: `/tmp/w/old/work/runs/photos/report.html`"');
INSERT INTO "study_system_attributes" VALUES(4,1,'dashboard:artifacts:5:4a3305e8-56f7-5eb8-a248-8c740682a3b1','"{\"artifact_id\": \"4a3305e8-56f7-5eb8-a248-8c740682a3b1\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(5,1,'dashboard:artifacts:5:bbe09388-d4cc-51cf-9ee3-cfde9238b273','"{\"artifact_id\": \"bbe09388-d4cc-51cf-9ee3-cfde9238b273\", \"filename\": \"confusion matrix.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(6,1,'dashboard:5:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(7,1,'dashboard:5:note_str:0','"### Trial 4: complete, accuracy **1.0000**, **the winner**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **full** | lr 0\\.00265 |\n| head | **linear** | dropout 0\\.108 |\n| augment | **cutmix** | alpha 0\\.962, smallest 0\\.1, flip False |\n| optimizer | **sgd** | scale 13\\.8, momentum 0\\.971, weight\\_decay 0\\.0014, warmup 0\\.26 |\n\n3 epochs planned; 1\\.7 s; 1,491 parameters; 1,491 learned; 4 views of a picture.\n\nIn the finals: 1\\.0000 \\(95 % interval 0\\.9265 to 1\\.0000\\), of the runs 1\\.0000, 1\\.0000, 1\\.0000.\n\n![learning curve](/artifacts/1/5/4a3305e8-56f7-5eb8-a248-8c740682a3b1) ![confusion matrix](/artifacts/1/5/bbe09388-d4cc-51cf-9ee3-cfde9238b273)"');
INSERT INTO "study_system_attributes" VALUES(8,1,'dashboard:artifacts:11:ae057b95-7501-51b0-a7da-338be22540e6','"{\"artifact_id\": \"ae057b95-7501-51b0-a7da-338be22540e6\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(9,1,'dashboard:artifacts:11:cd678be9-bbac-5dd2-9e55-b4af419b67ac','"{\"artifact_id\": \"cd678be9-bbac-5dd2-9e55-b4af419b67ac\", \"filename\": \"confusion matrix.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(10,1,'dashboard:11:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(11,1,'dashboard:11:note_str:0','"### Trial 10: complete, accuracy **1.0000**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **full** | lr 0\\.00222 |\n| head | **linear** | dropout 0\\.005 |\n| augment | **none** |  |\n| optimizer | **sgd** | scale 9\\.85, momentum 0\\.962, weight\\_decay 0\\.000221, warmup 0\\.274 |\n\n3 epochs planned; 0\\.2 s; 1,491 parameters; 1,491 learned; 4 views of a picture.\n\nIn the finals: 1\\.0000 \\(95 % interval 0\\.9265 to 1\\.0000\\), of the runs 1\\.0000, 1\\.0000, 1\\.0000.\n\n![learning curve](/artifacts/1/11/ae057b95-7501-51b0-a7da-338be22540e6) ![confusion matrix](/artifacts/1/11/cd678be9-bbac-5dd2-9e55-b4af419b67ac)"');
INSERT INTO "study_system_attributes" VALUES(12,1,'dashboard:artifacts:7:402a20c1-dddf-5671-a0d5-f2ab81af29e1','"{\"artifact_id\": \"402a20c1-dddf-5671-a0d5-f2ab81af29e1\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(13,1,'dashboard:artifacts:7:e2d221e0-077c-5b2e-9fd5-2ccbc556a956','"{\"artifact_id\": \"e2d221e0-077c-5b2e-9fd5-2ccbc556a956\", \"filename\": \"confusion matrix.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(14,1,'dashboard:7:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(15,1,'dashboard:7:note_str:0','"### Trial 6: complete, accuracy **0.8000**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **full** | lr 0\\.00132 |\n| head | **mlp** | depth 1, width 204, second 128, dropout 0\\.168 |\n| augment | **trivial\\_augment** | flip False |\n| optimizer | **adamw** | weight\\_decay 0\\.0315, warmup 0\\.241 |\n\n3 epochs planned; 5\\.6 s; 5,523 parameters; 5,523 learned; 4 views of a picture.\n\nIn the finals: 0\\.4667 \\(95 % interval 0\\.0000 to 0\\.9759\\), of the runs 0\\.4667, 0\\.6000, 0\\.3333.\n\n![learning curve](/artifacts/1/7/402a20c1-dddf-5671-a0d5-f2ab81af29e1) ![confusion matrix](/artifacts/1/7/e2d221e0-077c-5b2e-9fd5-2ccbc556a956)"');
INSERT INTO "study_system_attributes" VALUES(16,1,'dashboard:artifacts:12:fa01b14f-4241-5d16-92cf-1ef03b7154c2','"{\"artifact_id\": \"fa01b14f-4241-5d16-92cf-1ef03b7154c2\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(17,1,'dashboard:12:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(18,1,'dashboard:12:note_str:0','"### Trial 11: complete, accuracy **0.6667**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **full** | lr 0\\.00227 |\n| head | **linear** | dropout 0\\.155 |\n| augment | **none** |  |\n| optimizer | **adamw** | weight\\_decay 0\\.00446, warmup 0\\.263 |\n\n3 epochs planned; 0\\.3 s; 1,491 parameters; 1,491 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/12/fa01b14f-4241-5d16-92cf-1ef03b7154c2)"');
INSERT INTO "study_system_attributes" VALUES(19,1,'dashboard:artifacts:9:1aef2f86-4577-56f2-a92f-27854929d073','"{\"artifact_id\": \"1aef2f86-4577-56f2-a92f-27854929d073\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(20,1,'dashboard:9:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(21,1,'dashboard:9:note_str:0','"### Trial 8: complete, accuracy **0.5333**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.0164 |\n| head | **linear** | dropout 0\\.0057 |\n| augment | **trivial\\_augment** | flip False |\n| optimizer | **sgd** | scale 9\\.67, momentum 0\\.839, weight\\_decay 1\\.83e\\-06, warmup 0\\.295 |\n\n3 epochs planned; 0\\.2 s; 1,491 parameters; 51 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/9/1aef2f86-4577-56f2-a92f-27854929d073)"');
INSERT INTO "study_system_attributes" VALUES(22,1,'dashboard:artifacts:3:e760403c-d77d-5f7b-9fae-81bf981574f8','"{\"artifact_id\": \"e760403c-d77d-5f7b-9fae-81bf981574f8\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(23,1,'dashboard:3:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(24,1,'dashboard:3:note_str:0','"### Trial 2: complete, accuracy **0.4000**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.00223 |\n| head | **mlp** | depth 2, width 213, second 204, dropout 0\\.165 |\n| augment | **flip\\_crop** | smallest 0\\.5, flip True |\n| optimizer | **lion** | scale 0\\.111, weight\\_decay 0\\.144, warmup 0\\.159 |\n\n3 epochs planned; 1\\.3 s; 1,491 parameters; 47,892 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/3/e760403c-d77d-5f7b-9fae-81bf981574f8)"');
INSERT INTO "study_system_attributes" VALUES(25,1,'dashboard:artifacts:1:b6420bd6-bd4c-5dc4-82f0-14a9cf0f8c92','"{\"artifact_id\": \"b6420bd6-bd4c-5dc4-82f0-14a9cf0f8c92\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(26,1,'dashboard:artifacts:1:9e409191-52b2-5c61-a13b-f651a2eace04','"{\"artifact_id\": \"9e409191-52b2-5c61-a13b-f651a2eace04\", \"filename\": \"confusion matrix.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(27,1,'dashboard:1:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(28,1,'dashboard:1:note_str:0','"### Trial 0: complete, accuracy **0.3333**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.003 |\n| head | **linear** | dropout 0\\.1 |\n| augment | **flip\\_crop** | smallest 0\\.5, flip True |\n| optimizer | **adamw** | weight\\_decay 0\\.02, warmup 0\\.1 |\n\n3 epochs planned; 1\\.3 s; 1,491 parameters; 51 learned; 4 views of a picture.\n\nIn the finals: 0\\.4444 \\(95 % interval 0\\.0000 to 1\\.0000\\), of the runs 0\\.6667, 0\\.3333, 0\\.3333.\n\n![learning curve](/artifacts/1/1/b6420bd6-bd4c-5dc4-82f0-14a9cf0f8c92) ![confusion matrix](/artifacts/1/1/9e409191-52b2-5c61-a13b-f651a2eace04)"');
INSERT INTO "study_system_attributes" VALUES(29,1,'dashboard:artifacts:2:674d67e9-4a29-5207-8af5-95e18ca7722f','"{\"artifact_id\": \"674d67e9-4a29-5207-8af5-95e18ca7722f\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(30,1,'dashboard:2:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(31,1,'dashboard:2:note_str:0','"### Trial 1: complete, accuracy **0.3333**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.00205 |\n| head | **linear** | dropout 0\\.36 |\n| augment | **flip\\_crop** | smallest 0\\.5, flip True |\n| optimizer | **lion** | scale 0\\.0659, weight\\_decay 0\\.00444, warmup 0\\.104 |\n\n3 epochs planned; 1\\.3 s; 1,491 parameters; 51 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/2/674d67e9-4a29-5207-8af5-95e18ca7722f)"');
INSERT INTO "study_system_attributes" VALUES(32,1,'dashboard:artifacts:6:a761cbcb-e39d-59b2-93be-b9294c0cd22f','"{\"artifact_id\": \"a761cbcb-e39d-59b2-93be-b9294c0cd22f\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(33,1,'dashboard:6:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(34,1,'dashboard:6:note_str:0','"### Trial 5: complete, accuracy **0.3333**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.000777 |\n| head | **linear** | dropout 0\\.306 |\n| augment | **cutmix** | alpha 0\\.144, smallest 0\\.9, flip True |\n| optimizer | **lion** | scale 0\\.302, weight\\_decay 0\\.0084, warmup 0\\.0854 |\n\n3 epochs planned; 0\\.6 s; 1,491 parameters; 51 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/6/a761cbcb-e39d-59b2-93be-b9294c0cd22f)"');
INSERT INTO "study_system_attributes" VALUES(35,1,'dashboard:artifacts:8:76fb08d7-98a2-5375-b7e3-5850a35f7162','"{\"artifact_id\": \"76fb08d7-98a2-5375-b7e3-5850a35f7162\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(36,1,'dashboard:8:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(37,1,'dashboard:8:note_str:0','"### Trial 7: complete, accuracy **0.3333**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.00226 |\n| head | **mlp** | depth 1, width 78, second 128, dropout 0\\.134 |\n| augment | **trivial\\_augment** | flip True |\n| optimizer | **adamw** | weight\\_decay 0\\.201, warmup 0\\.0691 |\n\n3 epochs planned; 0\\.2 s; 3,003 parameters; 1,563 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/8/76fb08d7-98a2-5375-b7e3-5850a35f7162)"');
INSERT INTO "study_system_attributes" VALUES(38,1,'dashboard:artifacts:4:11af7e38-78d2-5a4d-95be-283830e8d555','"{\"artifact_id\": \"11af7e38-78d2-5a4d-95be-283830e8d555\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(39,1,'dashboard:4:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(40,1,'dashboard:4:note_str:0','"### Trial 3: complete, accuracy **0.3333**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.00115 |\n| head | **mlp** | depth 1, width 113, second 128, dropout 0\\.0257 |\n| augment | **random\\_erasing** | probability 0\\.122, area 0\\.301, fill mean, smallest 0\\.3, flip False |\n| optimizer | **sgd** | scale 8\\.78, momentum 0\\.84, weight\\_decay 3\\.56e\\-05, warmup 0\\.281 |\n\n3 epochs planned; 3\\.7 s; 3,703 parameters; 2,263 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/4/11af7e38-78d2-5a4d-95be-283830e8d555)"');
INSERT INTO "study_system_attributes" VALUES(41,1,'dashboard:artifacts:10:f3ea5a68-69d8-5c06-b0a5-d8e3c7876a49','"{\"artifact_id\": \"f3ea5a68-69d8-5c06-b0a5-d8e3c7876a49\", \"filename\": \"learning curve.png\", \"mimetype\": \"image/png\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(42,1,'dashboard:10:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(43,1,'dashboard:10:note_str:0','"### Trial 9: complete, accuracy **0.3333**\n\n| kind | chosen | values |\n| --- | --- | --- |\n| backbone | **tiny** |  |\n| freeze | **linear\\_probe** | lr 0\\.00294 |\n| head | **mlp** | depth 2, width 127, second 80, dropout 0\\.173 |\n| augment | **mixup** | alpha 0\\.464, smallest 0\\.5, flip False |\n| optimizer | **lion** | scale 0\\.837, weight\\_decay 0\\.623, warmup 0\\.295 |\n\n3 epochs planned; 0\\.2 s; 14,082 parameters; 12,642 learned; 4 views of a picture.\n\n![learning curve](/artifacts/1/10/f3ea5a68-69d8-5c06-b0a5-d8e3c7876a49)"');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'space','"da7eebf6d5c95c28999744199d9486c3e4359ad593839403e52008e536e30e8a"');
INSERT INTO "study_user_attributes" VALUES(2,1,'report','"/tmp/w/old/work/runs/photos/report.html"');
INSERT INTO "study_user_attributes" VALUES(3,1,'winner','"trial 4"');
INSERT INTO "study_user_attributes" VALUES(4,1,'winner''s accuracy','1.0');
INSERT INTO "study_user_attributes" VALUES(5,1,'winner''s accuracy on test','1.0');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,2,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,3,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,1,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,2,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,3,2,0.4,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(7,1,3,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(8,2,3,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(9,3,3,0.4,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(10,4,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(11,4,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(12,4,3,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(13,5,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(14,5,2,1.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(15,5,3,1.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(16,6,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(17,6,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(18,6,3,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(19,7,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(20,7,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(21,7,3,0.8,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(22,8,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(23,8,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(24,8,3,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(25,9,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(26,9,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(27,9,3,5.33333333333333325931e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(28,10,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(29,10,2,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(30,10,3,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(31,11,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(32,11,2,1.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(33,11,3,1.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(34,12,1,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(35,12,2,0.6,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(36,12,3,6.66666666666666629659e-01,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(2,1,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(3,1,'freeze.linear_probe.lr',0.003,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(4,1,'head',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(5,1,'head.linear.dropout',0.1,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(6,1,'augment',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(7,1,'augment.flip_crop.smallest',0.5,'{"name": "FloatDistribution", "attributes": {"step": 0.2, "low": 0.1, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(8,1,'augment.flip_crop.flip',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(9,1,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(10,1,'optimizer.adamw.weight_decay',0.02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.3, "log": true}}');
INSERT INTO "trial_params" VALUES(11,1,'optimizer.adamw.warmup',0.1,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(12,2,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(13,2,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(14,2,'freeze.linear_probe.lr',0.00204722352812965,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(15,2,'head',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(16,2,'head.linear.dropout',3.60162246721079049027e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(17,2,'augment',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(18,2,'augment.flip_crop.smallest',0.5,'{"name": "FloatDistribution", "attributes": {"step": 0.2, "low": 0.1, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(19,2,'augment.flip_crop.flip',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(20,2,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(21,2,'optimizer.lion.scale',6.59333717956307463481e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.05, "high": 1.0, "log": true}}');
INSERT INTO "trial_params" VALUES(22,2,'optimizer.lion.weight_decay',0.00444272406078843,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 3.0, "log": true}}');
INSERT INTO "trial_params" VALUES(23,2,'optimizer.lion.warmup',1.03668218112914323203e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(24,3,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(25,3,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(26,3,'freeze.linear_probe.lr',2.23414347122492199654e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(27,3,'head',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(28,3,'head.mlp.depth',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(29,3,'head.mlp.width',213.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 64, "high": 1024}}');
INSERT INTO "trial_params" VALUES(30,3,'head.mlp.second',204.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 64, "high": 1024}}');
INSERT INTO "trial_params" VALUES(31,3,'head.mlp.dropout',1.65167410501937061972e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(32,3,'augment',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(33,3,'augment.flip_crop.smallest',0.5,'{"name": "FloatDistribution", "attributes": {"step": 0.2, "low": 0.1, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(34,3,'augment.flip_crop.flip',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(35,3,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(36,3,'optimizer.lion.scale',1.11203970255793968546e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.05, "high": 1.0, "log": true}}');
INSERT INTO "trial_params" VALUES(37,3,'optimizer.lion.weight_decay',1.4446334013174141897e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 3.0, "log": true}}');
INSERT INTO "trial_params" VALUES(38,3,'optimizer.lion.warmup',1.5874262828311172524e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(39,4,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(40,4,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(41,4,'freeze.linear_probe.lr',1.14533025333537108632e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(42,4,'head',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(43,4,'head.mlp.depth',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(44,4,'head.mlp.width',113.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 64, "high": 1024}}');
INSERT INTO "trial_params" VALUES(45,4,'head.mlp.dropout',2.5733601650414938966e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(46,4,'augment',5.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(47,4,'augment.random_erasing.probability',1.21583694139448833526e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(48,4,'augment.random_erasing.area',3.01484339595896877472e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.05, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(49,4,'augment.random_erasing.fill',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["noise", "mean"]}}');
INSERT INTO "trial_params" VALUES(50,4,'augment.random_erasing.smallest',3.00000000000000044408e-01,'{"name": "FloatDistribution", "attributes": {"step": 0.2, "low": 0.1, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(51,4,'augment.random_erasing.flip',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(52,4,'optimizer',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(53,4,'optimizer.sgd.scale',8.78366505318945200997e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3.0, "high": 100.0, "log": true}}');
INSERT INTO "trial_params" VALUES(54,4,'optimizer.sgd.momentum',8.39952419107792724872e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 0.98, "log": false}}');
INSERT INTO "trial_params" VALUES(55,4,'optimizer.sgd.weight_decay',3.56356783428179386464e-05,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-06, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(56,4,'optimizer.sgd.warmup',2.80915094958129107904e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(57,5,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(58,5,'freeze',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(59,5,'freeze.full.lr',2.64539162720956073926e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3e-05, "high": 0.003, "log": true}}');
INSERT INTO "trial_params" VALUES(60,5,'head',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(61,5,'head.linear.dropout',1.08044747790188189195e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(62,5,'augment',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(63,5,'augment.cutmix.alpha',9.62499864797901394375e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": true}}');
INSERT INTO "trial_params" VALUES(64,5,'augment.cutmix.smallest',0.1,'{"name": "FloatDistribution", "attributes": {"step": 0.2, "low": 0.1, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(65,5,'augment.cutmix.flip',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(66,5,'optimizer',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(67,5,'optimizer.sgd.scale',1.3845852892822708924e+01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3.0, "high": 100.0, "log": true}}');
INSERT INTO "trial_params" VALUES(68,5,'optimizer.sgd.momentum',9.70815915220681224795e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 0.98, "log": false}}');
INSERT INTO "trial_params" VALUES(69,5,'optimizer.sgd.weight_decay',1.39708858340339926382e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-06, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(70,5,'optimizer.sgd.warmup',2.59886789574509502465e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(71,6,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(72,6,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(73,6,'freeze.linear_probe.lr',0.000777247914453813,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(74,6,'head',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(75,6,'head.linear.dropout',3.05871931451322853767e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(76,6,'augment',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(77,6,'augment.cutmix.alpha',1.43982552271988972769e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": true}}');
INSERT INTO "trial_params" VALUES(78,6,'augment.cutmix.smallest',0.9,'{"name": "FloatDistribution", "attributes": {"step": 0.2, "low": 0.1, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(79,6,'augment.cutmix.flip',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(80,6,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(81,6,'optimizer.lion.scale',3.01644828773361628471e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.05, "high": 1.0, "log": true}}');
INSERT INTO "trial_params" VALUES(82,6,'optimizer.lion.weight_decay',8.40011638825309894795e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 3.0, "log": true}}');
INSERT INTO "trial_params" VALUES(83,6,'optimizer.lion.warmup',8.54057641924091393015e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(84,7,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(85,7,'freeze',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(86,7,'freeze.full.lr',1.3169809738202921303e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3e-05, "high": 0.003, "log": true}}');
INSERT INTO "trial_params" VALUES(87,7,'head',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(88,7,'head.mlp.depth',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(89,7,'head.mlp.width',204.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 64, "high": 1024}}');
INSERT INTO "trial_params" VALUES(90,7,'head.mlp.dropout',1.67703924636664614133e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(91,7,'augment',6.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(92,7,'augment.trivial_augment.flip',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(93,7,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(94,7,'optimizer.adamw.weight_decay',3.15347076915732590918e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.3, "log": true}}');
INSERT INTO "trial_params" VALUES(95,7,'optimizer.adamw.warmup',2.40651168727342601449e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(96,8,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(97,8,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(98,8,'freeze.linear_probe.lr',0.00225912217020814,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(99,8,'head',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(100,8,'head.mlp.depth',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(101,8,'head.mlp.width',78.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 64, "high": 1024}}');
INSERT INTO "trial_params" VALUES(102,8,'head.mlp.dropout',1.34219490050935585934e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(103,8,'augment',6.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(104,8,'augment.trivial_augment.flip',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(105,8,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(106,8,'optimizer.adamw.weight_decay',2.01240543059426152394e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.3, "log": true}}');
INSERT INTO "trial_params" VALUES(107,8,'optimizer.adamw.warmup',6.90908637062894320779e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(108,9,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(109,9,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(110,9,'freeze.linear_probe.lr',1.64251874714235190921e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(111,9,'head',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(112,9,'head.linear.dropout',5.69940213871494849584e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(113,9,'augment',6.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(114,9,'augment.trivial_augment.flip',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(115,9,'optimizer',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(116,9,'optimizer.sgd.scale',9.66982588750047256098e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3.0, "high": 100.0, "log": true}}');
INSERT INTO "trial_params" VALUES(117,9,'optimizer.sgd.momentum',8.39384190947569108764e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 0.98, "log": false}}');
INSERT INTO "trial_params" VALUES(118,9,'optimizer.sgd.weight_decay',1.83330005365038066159e-06,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-06, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(119,9,'optimizer.sgd.warmup',2.94861163966030126459e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(120,10,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(121,10,'freeze',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(122,10,'freeze.linear_probe.lr',2.94217052927940418693e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0003, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(123,10,'head',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(124,10,'head.mlp.depth',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(125,10,'head.mlp.width',127.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 64, "high": 1024}}');
INSERT INTO "trial_params" VALUES(126,10,'head.mlp.second',80.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 64, "high": 1024}}');
INSERT INTO "trial_params" VALUES(127,10,'head.mlp.dropout',1.72749320025200048256e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(128,10,'augment',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(129,10,'augment.mixup.alpha',4.64407230644543922437e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": true}}');
INSERT INTO "trial_params" VALUES(130,10,'augment.mixup.smallest',0.5,'{"name": "FloatDistribution", "attributes": {"step": 0.2, "low": 0.1, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(131,10,'augment.mixup.flip',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [false, true]}}');
INSERT INTO "trial_params" VALUES(132,10,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(133,10,'optimizer.lion.scale',8.36797690269335370238e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.05, "high": 1.0, "log": true}}');
INSERT INTO "trial_params" VALUES(134,10,'optimizer.lion.weight_decay',6.23305038554725410193e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 3.0, "log": true}}');
INSERT INTO "trial_params" VALUES(135,10,'optimizer.lion.warmup',2.95007774467299754839e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(136,11,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(137,11,'freeze',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(138,11,'freeze.full.lr',2.22128216215763387916e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3e-05, "high": 0.003, "log": true}}');
INSERT INTO "trial_params" VALUES(139,11,'head',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(140,11,'head.linear.dropout',5.00223133749336246189e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(141,11,'augment',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(142,11,'optimizer',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(143,11,'optimizer.sgd.scale',9.85028600224374351057e+00,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3.0, "high": 100.0, "log": true}}');
INSERT INTO "trial_params" VALUES(144,11,'optimizer.sgd.momentum',0.961737823674995,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.8, "high": 0.98, "log": false}}');
INSERT INTO "trial_params" VALUES(145,11,'optimizer.sgd.weight_decay',2.21432394538845282684e-04,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-06, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(146,11,'optimizer.sgd.warmup',2.73883117143444487773e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
INSERT INTO "trial_params" VALUES(147,12,'backbone',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["tiny"]}}');
INSERT INTO "trial_params" VALUES(148,12,'freeze',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["full", "linear_probe"]}}');
INSERT INTO "trial_params" VALUES(149,12,'freeze.full.lr',2.27168380250825823266e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 3e-05, "high": 0.003, "log": true}}');
INSERT INTO "trial_params" VALUES(150,12,'head',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["linear", "mlp"]}}');
INSERT INTO "trial_params" VALUES(151,12,'head.linear.dropout',1.54613182839636292831e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(152,12,'augment',3.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["cutmix", "flip_crop", "mixup", "none", "rand_augment", "random_erasing", "trivial_augment"]}}');
INSERT INTO "trial_params" VALUES(153,12,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "lion", "sgd"]}}');
INSERT INTO "trial_params" VALUES(154,12,'optimizer.adamw.weight_decay',4.46132279700101313374e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.3, "log": true}}');
INSERT INTO "trial_params" VALUES(155,12,'optimizer.adamw.warmup',2.62588211915691260855e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 0.3, "log": false}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"backbone": "tiny", "freeze": "linear_probe", "freeze.linear_probe.lr": 0.003, "head": "linear", "head.linear.dropout": 0.1, "augment": "flip_crop", "augment.flip_crop.smallest": 0.5, "augment.flip_crop.flip": true, "optimizer": "adamw", "optimizer.adamw.weight_decay": 0.02, "optimizer.adamw.warmup": 0.1}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'fixed_params','{"backbone": "tiny", "freeze": "linear_probe", "augment": "flip_crop", "augment.flip_crop.smallest": 0.5, "augment.flip_crop.flip": true, "head": "linear"}');
INSERT INTO "trial_system_attributes" VALUES(3,3,'fixed_params','{"backbone": "tiny", "freeze": "linear_probe", "augment": "flip_crop", "augment.flip_crop.smallest": 0.5, "augment.flip_crop.flip": true, "head": "mlp"}');
INSERT INTO "trial_system_attributes" VALUES(4,11,'tpe:relative_params:0','"{\"augment\": \"none\", \"freeze\": \"full\", \"head\": \"linear\", \"optimizer\": \"sgd\", \"freeze.linear_probe.lr\": 0.014447608755956123, \"augment.flip_crop.flip\": false, \"augment.flip_crop.smallest\": 0.1, \"head.linear.dropout\": 0.0050022313374933625, \"optimizer.adamw.warmup\": 0.29845494506467446, \"optimizer.adamw.weight_decay\": 0.080151075039628, \"optimizer.lion.scale\": 0.2609970188136986, \"optimizer.lion.warmup\": 0.2888614299871338, \"optimizer.lion.weight_decay\": 0.003617367974486836, \"head.mlp.depth\": 1, \"head.mlp.dropout\": 0.41694416141431073, \"head.mlp.width\": 258, \"head.mlp.second\": 689, \"optimizer.sgd.momentum\": 0.961737823674995, \"optimizer.sgd.scale\": 9.850286002243744, \"optimizer.sgd.warmup\": 0.2738831171434445, \"optimizer.sgd.weight_decay\": 0.00022143239453884528, \"augment.random_erasing.area\": 0.36005630889758716, \"augment.random_erasing.fill\": \"noise\", \"augment.random_erasing.flip\": true, \"augment.random_erasing.probability\": 0.9272402948439742, \"augment.random_erasing.smallest\": 0.9, \"augment.cutmix.alpha\": 0.6362541328899616, \"augment.cutmix.flip\": false, \"augment.cutmix.smallest\": 0.1, \"freeze.full.lr\": 0.002221282162157634, \"augment.trivial_augment.flip\": false, \"augment.mixup.alpha\": 0.10469895366126633, \"augment.mixup.flip\": true, \"augment.mixup.smallest\": 0.9}"');
INSERT INTO "trial_system_attributes" VALUES(5,12,'tpe:relative_params:0','"{\"augment\": \"none\", \"freeze\": \"full\", \"head\": \"linear\", \"optimizer\": \"adamw\", \"freeze.linear_probe.lr\": 0.02840789978496815, \"augment.flip_crop.flip\": false, \"augment.flip_crop.smallest\": 0.1, \"head.linear.dropout\": 0.1546131828396363, \"optimizer.adamw.warmup\": 0.26258821191569126, \"optimizer.adamw.weight_decay\": 0.004461322797001013, \"optimizer.lion.scale\": 0.8929976548879136, \"optimizer.lion.warmup\": 0.24470862947043082, \"optimizer.lion.weight_decay\": 0.019222179688524736, \"head.mlp.depth\": 1, \"head.mlp.dropout\": 0.06904623613477429, \"head.mlp.width\": 733, \"head.mlp.second\": 987, \"optimizer.sgd.momentum\": 0.9679598912855638, \"optimizer.sgd.scale\": 6.008938419004393, \"optimizer.sgd.warmup\": 0.26711378645997647, \"optimizer.sgd.weight_decay\": 0.0040112292291704784, \"augment.random_erasing.area\": 0.10382298128985593, \"augment.random_erasing.fill\": \"noise\", \"augment.random_erasing.flip\": true, \"augment.random_erasing.probability\": 0.20060184212463272, \"augment.random_erasing.smallest\": 0.9, \"augment.cutmix.alpha\": 0.5347720896097178, \"augment.cutmix.flip\": false, \"augment.cutmix.smallest\": 0.1, \"freeze.full.lr\": 0.0022716838025082582, \"augment.trivial_augment.flip\": false, \"augment.mixup.alpha\": 0.11891218259414776, \"augment.mixup.flip\": true, \"augment.mixup.smallest\": 0.1}"');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'recipe','["tiny", "linear_probe", "linear"]');
INSERT INTO "trial_user_attributes" VALUES(2,1,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(3,1,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.003}}, "head": {"linear": {"dropout": 0.1}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"adamw": {"weight_decay": 0.02, "warmup": 0.1}}}');
INSERT INTO "trial_user_attributes" VALUES(4,1,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(5,1,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(6,2,'beside','0');
INSERT INTO "trial_user_attributes" VALUES(7,2,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(8,2,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.00204722352812965}}, "head": {"linear": {"dropout": 0.36016224672107905}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"lion": {"scale": 0.06593337179563075, "weight_decay": 0.00444272406078843, "warmup": 0.10366821811291432}}}');
INSERT INTO "trial_user_attributes" VALUES(9,2,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(10,2,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(11,3,'beside','0');
INSERT INTO "trial_user_attributes" VALUES(12,3,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(13,3,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.002234143471224922}}, "head": {"mlp": {"depth": 2, "width": 213, "second": 204, "dropout": 0.16516741050193706}}, "augment": {"flip_crop": {"smallest": 0.5, "flip": true}}, "optimizer": {"lion": {"scale": 0.11120397025579397, "weight_decay": 0.14446334013174142, "warmup": 0.15874262828311173}}}');
INSERT INTO "trial_user_attributes" VALUES(14,3,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(15,3,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(16,1,'learned_parameters','51');
INSERT INTO "trial_user_attributes" VALUES(17,2,'learned_parameters','51');
INSERT INTO "trial_user_attributes" VALUES(18,3,'learned_parameters','47892');
INSERT INTO "trial_user_attributes" VALUES(19,1,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(20,1,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(21,2,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(22,2,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(23,3,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(24,3,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(25,4,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(26,4,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.001145330253335371}}, "head": {"mlp": {"depth": 1, "width": 113, "second": 128, "dropout": 0.02573360165041494}}, "augment": {"random_erasing": {"probability": 0.12158369413944883, "area": 0.3014843395958969, "fill": "mean", "smallest": 0.3, "flip": false}}, "optimizer": {"sgd": {"scale": 8.783665053189452, "momentum": 0.8399524191077927, "weight_decay": 3.563567834281794e-05, "warmup": 0.2809150949581291}}}');
INSERT INTO "trial_user_attributes" VALUES(27,4,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(28,4,'parameters','3703');
INSERT INTO "trial_user_attributes" VALUES(29,4,'learned_parameters','2263');
INSERT INTO "trial_user_attributes" VALUES(30,4,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(31,4,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(32,5,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(33,5,'config','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0026453916272095607}}, "head": {"linear": {"dropout": 0.10804474779018819}}, "augment": {"cutmix": {"alpha": 0.9624998647979014, "smallest": 0.1, "flip": false}}, "optimizer": {"sgd": {"scale": 13.845852892822709, "momentum": 0.9708159152206812, "weight_decay": 0.0013970885834033993, "warmup": 0.2598867895745095}}}');
INSERT INTO "trial_user_attributes" VALUES(34,5,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(35,5,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(36,5,'learned_parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(37,5,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(38,5,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(39,6,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(40,6,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.000777247914453813}}, "head": {"linear": {"dropout": 0.30587193145132285}}, "augment": {"cutmix": {"alpha": 0.14398255227198897, "smallest": 0.9, "flip": true}}, "optimizer": {"lion": {"scale": 0.30164482877336163, "weight_decay": 0.008400116388253099, "warmup": 0.08540576419240914}}}');
INSERT INTO "trial_user_attributes" VALUES(41,6,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(42,6,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(43,6,'learned_parameters','51');
INSERT INTO "trial_user_attributes" VALUES(44,6,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(45,6,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(46,7,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(47,7,'config','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0013169809738202921}}, "head": {"mlp": {"depth": 1, "width": 204, "second": 128, "dropout": 0.16770392463666461}}, "augment": {"trivial_augment": {"flip": false}}, "optimizer": {"adamw": {"weight_decay": 0.03153470769157326, "warmup": 0.2406511687273426}}}');
INSERT INTO "trial_user_attributes" VALUES(48,7,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(49,7,'parameters','5523');
INSERT INTO "trial_user_attributes" VALUES(50,7,'learned_parameters','5523');
INSERT INTO "trial_user_attributes" VALUES(51,7,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(52,7,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(53,8,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(54,8,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.00225912217020814}}, "head": {"mlp": {"depth": 1, "width": 78, "second": 128, "dropout": 0.13421949005093559}}, "augment": {"trivial_augment": {"flip": true}}, "optimizer": {"adamw": {"weight_decay": 0.20124054305942615, "warmup": 0.06909086370628943}}}');
INSERT INTO "trial_user_attributes" VALUES(55,8,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(56,8,'parameters','3003');
INSERT INTO "trial_user_attributes" VALUES(57,8,'learned_parameters','1563');
INSERT INTO "trial_user_attributes" VALUES(58,8,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(59,8,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(60,9,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(61,9,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.01642518747142352}}, "head": {"linear": {"dropout": 0.0056994021387149485}}, "augment": {"trivial_augment": {"flip": false}}, "optimizer": {"sgd": {"scale": 9.669825887500473, "momentum": 0.8393841909475691, "weight_decay": 1.8333000536503807e-06, "warmup": 0.2948611639660301}}}');
INSERT INTO "trial_user_attributes" VALUES(62,9,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(63,9,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(64,9,'learned_parameters','51');
INSERT INTO "trial_user_attributes" VALUES(65,9,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(66,9,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(67,10,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(68,10,'config','{"backbone": {"tiny": {}}, "freeze": {"linear_probe": {"lr": 0.002942170529279404}}, "head": {"mlp": {"depth": 2, "width": 127, "second": 80, "dropout": 0.17274932002520005}}, "augment": {"mixup": {"alpha": 0.4644072306445439, "smallest": 0.5, "flip": false}}, "optimizer": {"lion": {"scale": 0.8367976902693354, "weight_decay": 0.6233050385547254, "warmup": 0.29500777446729975}}}');
INSERT INTO "trial_user_attributes" VALUES(69,10,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(70,10,'parameters','14082');
INSERT INTO "trial_user_attributes" VALUES(71,10,'learned_parameters','12642');
INSERT INTO "trial_user_attributes" VALUES(72,10,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(73,10,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(74,11,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(75,11,'config','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.002221282162157634}}, "head": {"linear": {"dropout": 0.0050022313374933625}}, "augment": {"none": {}}, "optimizer": {"sgd": {"scale": 9.850286002243744, "momentum": 0.961737823674995, "weight_decay": 0.00022143239453884528, "warmup": 0.2738831171434445}}}');
INSERT INTO "trial_user_attributes" VALUES(76,11,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(77,11,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(78,11,'learned_parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(79,11,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(80,11,'reason','""');
INSERT INTO "trial_user_attributes" VALUES(81,12,'process','["vm", 14044]');
INSERT INTO "trial_user_attributes" VALUES(82,12,'config','{"backbone": {"tiny": {}}, "freeze": {"full": {"lr": 0.0022716838025082582}}, "head": {"linear": {"dropout": 0.1546131828396363}}, "augment": {"none": {}}, "optimizer": {"adamw": {"weight_decay": 0.004461322797001013, "warmup": 0.26258821191569126}}}');
INSERT INTO "trial_user_attributes" VALUES(83,12,'epochs','3');
INSERT INTO "trial_user_attributes" VALUES(84,12,'parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(85,12,'learned_parameters','1491');
INSERT INTO "trial_user_attributes" VALUES(86,12,'end','"complete"');
INSERT INTO "trial_user_attributes" VALUES(87,12,'reason','""');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,0.4,'FINITE');
INSERT INTO "trial_values" VALUES(4,4,0,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_values" VALUES(5,5,0,1.0,'FINITE');
INSERT INTO "trial_values" VALUES(6,6,0,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_values" VALUES(7,7,0,0.8,'FINITE');
INSERT INTO "trial_values" VALUES(8,8,0,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_values" VALUES(9,9,0,5.33333333333333325931e-01,'FINITE');
INSERT INTO "trial_values" VALUES(10,10,0,3.33333333333333314829e-01,'FINITE');
INSERT INTO "trial_values" VALUES(11,11,0,1.0,'FINITE');
INSERT INTO "trial_values" VALUES(12,12,0,6.66666666666666629659e-01,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-27 10:16:48.207645','2026-11-27 10:16:52.092908');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-27 10:16:48.399757','2026-11-27 10:16:52.129112');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-27 10:16:48.527454','2026-11-27 10:16:52.157991');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-27 10:16:52.195232','2026-11-27 10:16:55.952757');
INSERT INTO "trials" VALUES(5,4,1,'COMPLETE','2026-11-27 10:16:55.978123','2026-11-27 10:16:57.767431');
INSERT INTO "trials" VALUES(6,5,1,'COMPLETE','2026-11-27 10:16:57.827069','2026-11-27 10:16:58.540347');
INSERT INTO "trials" VALUES(7,6,1,'COMPLETE','2026-11-27 10:16:58.608891','2026-11-27 10:17:04.269093');
INSERT INTO "trials" VALUES(8,7,1,'COMPLETE','2026-11-27 10:17:04.300322','2026-11-27 10:17:04.488386');
INSERT INTO "trials" VALUES(9,8,1,'COMPLETE','2026-11-27 10:17:04.508338','2026-11-27 10:17:04.691196');
INSERT INTO "trials" VALUES(10,9,1,'COMPLETE','2026-11-27 10:17:04.712677','2026-11-27 10:17:04.939293');
INSERT INTO "trials" VALUES(11,10,1,'COMPLETE','2026-11-27 10:17:04.956525','2026-11-27 10:17:05.209842');
INSERT INTO "trials" VALUES(12,11,1,'COMPLETE','2026-11-27 10:17:05.231572','2026-11-27 10:17:05.528984');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
CREATE INDEX ix_autotl_test_study ON autotl_test (study);
COMMIT;
