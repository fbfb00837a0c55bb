"""The saved model: its folder, its model card, code that loads it without autotl, and exports."""
