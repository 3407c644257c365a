import { Panel } from "../panel.js";

export class Alike extends Panel {
  get offered() {
    return false;
  }
}
